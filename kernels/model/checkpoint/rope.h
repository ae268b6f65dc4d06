// Rotary frequencies as Hugging Face's transformers computes them, operation by operation in fp32,
// so that long positions agree with it. Pure functions.
#pragma once

#include <cstdint>

#include "kernels/device/backend.h"

namespace tessera {

// inv_freq[i] = 1 / theta ^ (2 i / rotary_dim). REQUIRES: rotary_dim even and positive.
RopeSpec DefaultRope(double theta, int32_t rotary_dim);

// Positions divided by `factor` (position interpolation).
RopeSpec LinearRope(double theta, int32_t rotary_dim, double factor);

// Llama 3.1: wavelengths beyond original_positions / low_freq_factor are stretched by `factor`,
// those below original_positions / high_freq_factor are kept, between them it blends.
struct Llama3Scaling {
  double factor = 1.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  double original_positions = 8192.0;
};
// REQUIRES: scaling.high_freq_factor > scaling.low_freq_factor > 0.
RopeSpec Llama3Rope(double theta, int32_t rotary_dim, const Llama3Scaling& scaling);

}  // namespace tessera
