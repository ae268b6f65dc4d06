// Frequencies of rotary position embeddings. The functions repeat the fp32 operations of Hugging
// Face's transformers one by one, so that results agree at long positions too. Pure functions; any
// thread.
#pragma once

#include <cstdint>

#include "kernels/device/backend.h"

namespace tessera {

// inv_freq[i] = 1 / theta ^ (2 i / rotary_dim). REQUIRES: rotary_dim even and positive.
RopeSpec DefaultRope(double theta, int32_t rotary_dim);

// Position interpolation: divides the frequencies, and so the positions, by `factor`.
RopeSpec LinearRope(double theta, int32_t rotary_dim, double factor);

// The scaling of Llama 3.1. Wavelengths above original_positions / low_freq_factor are multiplied
// by `factor`; wavelengths below original_positions / high_freq_factor stay; frequencies between
// the two bounds are interpolated linearly.
struct Llama3Scaling {
  double factor = 1.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  double original_positions = 8192.0;
};
// REQUIRES: scaling.high_freq_factor > scaling.low_freq_factor > 0.
RopeSpec Llama3Rope(double theta, int32_t rotary_dim, const Llama3Scaling& scaling);

}  // namespace tessera
