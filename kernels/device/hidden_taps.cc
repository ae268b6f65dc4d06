#include "kernels/device/hidden_taps.h"

#include <cmath>
#include <cstring>

namespace tessera {
namespace {

// RMSNorm with its sum in fp64.
void NormRow(const NormArgs& norm, const float* row, int64_t cols, float* out) {
  double sum = 0.0;
  for (int64_t i = 0; i < cols; ++i) sum += static_cast<double>(row[i]) * row[i];
  const float scale =
      static_cast<float>(1.0 / std::sqrt(sum / static_cast<double>(cols) + norm.eps));
  for (int64_t i = 0; i < cols; ++i) out[i] = row[i] * scale * norm.weight[i];
}

}  // namespace

void WriteHiddenTaps(const HiddenTapArgs& args) {
  const int64_t cols = args.hidden.cols;
  const StepBatch& batch = *args.batch.batch;
  const Tap* const taps = args.batch.data(batch.taps);
  for (uint32_t i = 0; i < batch.taps.count; ++i) {
    const Tap& tap = taps[i];
    if (tap.kind != TapKind::kHidden || args.layer < tap.layer_begin ||
        args.layer >= tap.layer_end) {
      continue;
    }
    const int32_t first_row = args.batch.segments()[tap.segment].token_begin + tap.row_begin;
    float* out =
        args.taps + tap.out_begin + int64_t{args.layer - tap.layer_begin} * tap.num_rows * cols;
    for (int32_t row = 0; row < tap.num_rows; ++row, out += cols) {
      const float* const in = args.hidden.f32(first_row + row);
      if (args.norm.weight != nullptr) {
        NormRow(args.norm, in, cols, out);
      } else {
        std::memcpy(out, in, static_cast<size_t>(cols) * sizeof(float));
      }
    }
  }
}

}  // namespace tessera
