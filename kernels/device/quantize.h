// Quantises weights to the codes, scales and zeros that kernels/device/weight_format.h defines. All
// backends use these functions, so they hold the same numbers. Any thread; each RowQuantizer is
// owned and used by one thread.
//
// Weights are rounded to nearest, per group (or per row, in a format without groups):
//   symmetric int8: scale = max |w| / 127, codes 1..255 (-127..127 around the zero)
//   symmetric int4 and int5: scale = w / -8 or w / -16 for the weight w of largest magnitude. The
//     scale may be negative, so that code 0 represents w up to the rounding of the scale.
//   asymmetric: scale = (max - min) / the largest code, over the weights and 0; zero = round(-min /
//     scale)
// In a format with a rotation, the rotated weights are rounded. Scales of groups are rounded to
// bf16 before the codes are chosen. The scale is 0 if all weights of the group are zero or too
// small, and NaN if a weight is a NaN or an infinity.
//
// The scale is not searched. The best of eight shares of the scale has a squared error that is 5 to
// 6 % lower, and changed KL and perplexity by no more than other roundings of the same weights do
// (bench/notes/weight_formats.md).
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/device/tensor.h"
#include "kernels/device/weight_format.h"

namespace tessera {

// The type that represents all scales of a weight made of `parts` exactly. Parts that are quantised
// here have bf16 scales; a quantised checkpoint's parts have its scale_dtype. Returns the parts'
// common type, or kF32 if the parts differ or if the format has one scale per row.
DType ScaleDType(const std::vector<WeightView>& parts, const WeightFormat& format);

// Converts row `row` of a weight to floats. REQUIRES: !view.quantized().
void LoadWeightRow(const WeightView& view, int64_t row, float* out);  // [cols]

// Multiplies each block of `rotation` numbers of a row by the Hadamard matrix of that size, in
// place. Stages of strides 1, 2, ..., rotation / 2 replace each pair (a, b) of numbers that lie a
// stride apart by (a + b, a - b). All backends compute these sums, in fp32, so their bits agree.
// REQUIRES: `rotation` is a valid size and divides `cols`.
void RotateRow(int32_t rotation, int64_t cols, float* row);  // [cols]

// Quantises rows one at a time, and reuses its buffers for all rows. For one thread.
class RowQuantizer final {
 public:
  explicit RowQuantizer(const WeightFormat& format) : format_(format) {}

  // Quantises row `row` of a weight, or copies its codes, scales and zeros if it is quantised. The
  // result is in codes(), scales() and zeros(). REQUIRES: a quantised weight has no rotation.
  void Load(const WeightView& view, int64_t row);

  const uint8_t* codes() const { return codes_.data(); }  // [cols]
  const float* scales() const { return scales_.data(); }  // [groups]
  const uint8_t* zeros() const { return zeros_.data(); }  // [groups]; set for symmetric formats too

 private:
  void TakeReady(const WeightView& view, int64_t row);
  void QuantizeGroup(const float* weights, int64_t count, uint8_t* codes, float* scale,
                     uint8_t* zero) const;

  const WeightFormat format_;
  std::vector<float> floats_;
  std::vector<uint8_t> codes_;
  std::vector<float> scales_;
  std::vector<uint8_t> zeros_;
};

}  // namespace tessera
