// Rows of page memory (kernels/step/page_layout.h) in plain scalar code, for what does not run in a
// layer's inner loops: page ops and taps. Rounds as the ISAs' append_head does. Pure; any thread.
#pragma once

#include <cstring>

#include "kernels/step/page_layout.h"

namespace tessera::cpu {

// REQUIRES: layout.quantized().
inline float RowScale(const GroupLayout& layout, const char* row) {
  float scale;
  std::memcpy(&scale, row + layout.scale_offset(), sizeof(scale));
  return scale;
}

void LoadRow(const GroupLayout& layout, const char* row, float* x);   // [head_dim]
void StoreRow(const GroupLayout& layout, const float* x, char* row);  // [head_dim]

}  // namespace tessera::cpu
