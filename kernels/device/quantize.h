// Weights to codes, scales and zeros; shared by the backends, so that they hold the same numbers.
// kernels/device/weight_format.h says what they mean. Plain code, pure functions; any thread.
//
// Rounding to nearest, per group (the whole row in int8):
//   symmetric int8: scale = max |w| / 127, codes 1..255 (-127..127 around the zero)
//   symmetric int4: scale = w / -8 of the w that is largest in magnitude, so it has either sign and
//     the largest weight is met exactly by the end of the grid that has one code more
//   asymmetric: scale = (max - min) / 255 or 15 over the weights and 0, zero = round(-min / scale)
// Scales of groups are rounded to bf16 before the codes are chosen. A group of zeros (or of numbers
// too small for a scale) has the scale 0; one that holds a NaN or an infinity has the scale NaN.
//
// The scale is not searched for: that of the least squared error among eleven moved perplexity by
// less than its error (bench/notes/weight_formats.md).
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/device/tensor.h"
#include "kernels/device/weight_format.h"

namespace tessera {

// The type that holds all scales of a weight made of `parts` exactly: what quantised parts have if
// they agree; kF32 otherwise and for scales of whole rows. Ours are bf16.
DType ScaleDType(const std::vector<WeightView>& parts, const WeightFormat& format);

// Row `row` of a part as floats. REQUIRES: !view.quantized().
void LoadWeightRow(const WeightView& view, int64_t row, float* out);  // [cols]

// Quantised rows, one at a time. Keeps buffers between rows; one thread.
class RowQuantizer final {
 public:
  explicit RowQuantizer(const WeightFormat& format) : format_(format) {}

  // Row `row` of a part: quantised, or taken as it is.
  void Load(const WeightView& view, int64_t row);

  const uint8_t* codes() const { return codes_.data(); }  // [cols]
  const float* scales() const { return scales_.data(); }  // [groups]
  const uint8_t* zeros() const { return zeros_.data(); }  // [groups], also in symmetric formats

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
