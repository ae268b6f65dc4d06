// RefWeight is a weight (fp32, bf16 or quantised) of the reference backend, with its product with
// one row. The model owns its weights. Immutable after Create; any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/device/backend.h"

namespace tessera::ref {

class RefWeight : public PackedWeight {
 public:
  // Packs `parts` as Backend::Pack specifies. Returns null if there is not enough memory.
  static std::unique_ptr<RefWeight> Create(const std::vector<WeightView>& parts,
                                           const WeightFormat& format, bool interleave_gate);

  int64_t rows() const override { return rows_; }
  int64_t cols() const override { return cols_; }
  const WeightFormat& format() const override { return format_; }

  // Reads row n of the weight.
  virtual void LoadRow(int64_t n, float* out) const = 0;  // [cols]
  // y[n] := x, rounded or quantised as the format requires, times row n of the weight. `y` has
  // PaddedRows() elements. Overwrites `x`.
  virtual void Multiply(float* x, float* y) const = 0;
  int64_t PaddedRows() const { return RoundUp(rows_, kPanel); }

 protected:
  static constexpr int64_t kPanel = 16;

  RefWeight(int64_t rows, int64_t cols, const WeightFormat& format)
      : rows_(rows), cols_(cols), format_(format) {}

  // Sets row n of the weight to row `row` of `part`.
  virtual void SetRow(int64_t n, const WeightView& part, int64_t row) = 0;

  const int64_t rows_;
  const int64_t cols_;
  const WeightFormat format_;
};

}  // namespace tessera::ref
