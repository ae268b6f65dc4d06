// Reads and writes the K and V rows of pages (kernels/step/page_layout.h) in plain scalar code.
// Page ops and taps use these functions; the inner loops of a layer do not. StoreRow and StoreKey
// round exactly like IsaKernels::append_head. A row is the row of token `token` of `head`, the
// start of a head's K or V in a page. Pure functions; any thread.
#pragma once

#include <cstring>

#include "kernels/step/page_layout.h"

namespace tessera::cpu {

// Returns the scale of a quantised row. REQUIRES: layout.quantized().
inline float RowScale(const GroupLayout& layout, const char* head, int32_t token) {
  float scale;
  std::memcpy(&scale, head + layout.scales_offset() + token * GroupLayout::kScaleBytes,
              sizeof(scale));
  return scale;
}

// Convert between the numbers of a row and x [head_dim].
void LoadRow(const GroupLayout& layout, const char* head, int32_t token, float* x);
void StoreRow(const GroupLayout& layout, const float* x, char* head, int32_t token);

// Convert between a K row and its key [head_dim], which int8 pages hold rotated
// (kernels/device/key_rotation.h).
void LoadKey(const GroupLayout& layout, const char* head, int32_t token, float* key);
void StoreKey(const GroupLayout& layout, const float* key, char* head, int32_t token);

}  // namespace tessera::cpu
