#include "kernels/ref/ref_lora.h"

#include <vector>

#include "kernels/base/log.h"
#include "kernels/ref/ref_math.h"

namespace tessera::ref {
namespace {

// Returns the adapter of a row of the batch, or null if the row has none.
const BatchAdapter* AdapterOf(const BatchView& batch, int64_t row) {
  for (int32_t s = 0; s < batch.num_segments(); ++s) {
    const Segment& segment = batch.segments()[s];
    if (row < segment.token_begin || row >= segment.token_begin + segment.num_tokens) continue;
    if (segment.adapter < 0) return nullptr;
    CHECK_LT(segment.adapter, static_cast<int32_t>(batch.batch->adapters.count));
    return batch.data(batch.batch->adapters) + segment.adapter;
  }
  return nullptr;
}

}  // namespace

void AddLora(const LoraArgs& lora, int64_t row, const float* x, int64_t cols, bool gated,
             float* y) {
  const BatchAdapter* const adapter = AdapterOf(lora.batch, row);
  if (adapter == nullptr) return;
  const PageId* const pages = lora.batch.pages() + adapter->page_begin;
  const auto tile_of = [&](const TileRun& run, int32_t tile) {
    const TilePlace place = PlaceOfTile(run, lora.page_bytes, tile);
    return lora.pool.Page(pages[place.page]) + place.offset;
  };
  int64_t first_row = 0;
  for (int32_t p = 0; p < lora.num_parts; first_row += lora.part_rows[p++]) {
    const int32_t index = lora.layer * kNumLoraTargets + static_cast<int32_t>(lora.targets[p]) +
                          adapter->matrix_begin;
    const LoraMatrices& matrices = lora.batch.data(lora.batch.batch->lora_matrices)[index];
    std::vector<double> z;  // [rank]
    for (int32_t i = 0; i < matrices.rank; ++i) {
      const char* const a = tile_of(matrices.a, i);
      double sum = 0.0;
      for (int64_t k = 0; k < cols; ++k) {
        sum += static_cast<double>(x[k]) * LoadElement(adapter->dtype, a, k);
      }
      const int64_t scale = AdapterLayout::ScaleOffset(cols, adapter->dtype);
      z.push_back(sum * LoadElement(DType::kF32, a + scale, 0));
    }
    for (int32_t n = 0; n < lora.part_rows[p] && matrices.rank > 0; ++n) {
      const char* const b = tile_of(matrices.b, n / kLoraPanel);
      double sum = 0.0;
      for (int32_t i = 0; i < matrices.rank; ++i) {
        sum += z[static_cast<size_t>(i)] *
               LoadElement(adapter->dtype, b, i * kLoraPanel + n % kLoraPanel);
      }
      y[gated ? 2 * n + p : first_row + n] += static_cast<float>(sum);
    }
  }
}

}  // namespace tessera::ref
