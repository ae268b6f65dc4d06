// The reference backend's LoRA: one row's A x and B z, as they are written. Pure.
#pragma once

#include "kernels/device/backend.h"

namespace tessera::ref {

// Adds what the row's adapter gives to y, the fused weight's outputs (gated: [gate, up] pairs). `x`
// is the normed row, [cols].
void AddLora(const LoraArgs& lora, int64_t row, const float* x, int64_t cols, bool gated, float* y);

}  // namespace tessera::ref
