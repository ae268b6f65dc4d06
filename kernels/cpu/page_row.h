// Reads and writes the K and V rows of pages (kernels/step/page_layout.h) in plain scalar code.
// Page ops and taps use these functions; the inner loops of a layer do not. StoreRow rounds exactly
// like IsaKernels::append_head. Pure functions; any thread.
#pragma once

#include <cstring>

#include "kernels/step/page_layout.h"

namespace tessera::cpu {

// Returns the scale of a quantised row. REQUIRES: layout.quantized().
inline float RowScale(const GroupLayout& layout, const char* row) {
  float scale;
  std::memcpy(&scale, row + layout.scale_offset(), sizeof(scale));
  return scale;
}

// Convert between a row of a page and x [head_dim].
void LoadRow(const GroupLayout& layout, const char* row, float* x);
void StoreRow(const GroupLayout& layout, const float* x, char* row);

}  // namespace tessera::cpu
