// CpuWeight is a weight in the layout of the cpu backend: panels of 16 outputs, so that one vector
// load reads the next weight(s) of 16 outputs, and a matrix-vector product reads memory in
// ascending order. GemmProblem in isa_kernels.h defines the layout. The model owns its weights.
// Immutable after creation; any thread.
#pragma once

#include <cstring>
#include <memory>
#include <vector>

#include "kernels/base/thread_team.h"
#include "kernels/cpu/isa_kernels.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/pack_quantized.h"
#include "kernels/device/backend.h"

namespace tessera::cpu {

class CpuWeight final : public PackedWeight {
 public:
  // Packs `parts` as Backend::Pack specifies. Returns null if there is not enough memory.
  static std::unique_ptr<CpuWeight> Create(const std::vector<WeightView>& parts,
                                           const WeightFormat& format, bool gated,
                                           ThreadTeam* team);
  // Creates the weight with the packed bytes from `fill`, as Backend::Restore specifies.
  static std::unique_ptr<CpuWeight> Restore(const std::vector<WeightView>& parts,
                                            const WeightFormat& format, bool gated,
                                            const FillPacked& fill);

  int64_t rows() const override { return rows_; }
  int64_t cols() const override { return cols_; }
  const WeightFormat& format() const override { return format_; }
  size_t bytes() const override { return buffer_->size(); }
  bool restorable() const override { return true; }
  void ReadPacked(size_t offset, size_t count, char* out) const override {
    std::memcpy(out, panels() + offset, count);
  }

  bool gated() const { return gated_; }
  int64_t num_panels() const { return num_panels_; }
  int64_t steps() const { return NumLines(format_.dtype, cols_); }
  int64_t panel_bytes() const { return panel_bytes_; }
  const char* panels() const { return buffer_->bytes(); }
  // REQUIRES: format().quantized().
  const QuantShape& quant() const { return quant_; }

  // out[k] = weight[row][k] * scale. REQUIRES: !gated().
  void GatherRow(int64_t row, float scale, float* out) const;

 private:
  CpuWeight() = default;

  // Returns a weight whose packed bytes are all 0, or null if there is not enough memory.
  static std::unique_ptr<CpuWeight> Allocate(const std::vector<WeightView>& parts,
                                             const WeightFormat& format, bool gated);

  std::unique_ptr<HugeBuffer> buffer_;
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  int64_t num_panels_ = 0;
  int64_t panel_bytes_ = 0;
  WeightFormat format_;
  QuantShape quant_;
  bool gated_ = false;
};

}  // namespace tessera::cpu
