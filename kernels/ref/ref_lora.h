// The reference backend's LoRA: computes A x and B z of one row by their definitions. Pure
// function; any thread.
#pragma once

#include "kernels/device/backend.h"

namespace tessera::ref {

// Adds the product of the row's adapter to `y`, the outputs of the fused weight (gate and up
// alternate if `gated`). `x` [cols] is the row after the norm.
void AddLora(const LoraArgs& lora, int64_t row, const float* x, int64_t cols, bool gated, float* y);

}  // namespace tessera::ref
