#include "kernels/model/checkpoint/rope.h"

#include <cmath>

namespace tessera {

RopeSpec DefaultRope(double theta, int32_t rotary_dim) {
  RopeSpec rope;
  rope.rotary_dim = rotary_dim;
  const float base = static_cast<float>(theta);
  for (int32_t i = 0; i < rotary_dim; i += 2) {
    const float exponent = static_cast<float>(i) / static_cast<float>(rotary_dim);
    rope.inv_freq.push_back(1.0f / std::pow(base, exponent));
  }
  return rope;
}

RopeSpec LinearRope(double theta, int32_t rotary_dim, double factor) {
  RopeSpec rope = DefaultRope(theta, rotary_dim);
  for (float& freq : rope.inv_freq) freq /= static_cast<float>(factor);
  return rope;
}

RopeSpec Llama3Rope(double theta, int32_t rotary_dim, const Llama3Scaling& scaling) {
  RopeSpec rope = DefaultRope(theta, rotary_dim);
  const float factor = static_cast<float>(scaling.factor);
  const float low = static_cast<float>(scaling.low_freq_factor);
  const float range = static_cast<float>(scaling.high_freq_factor - scaling.low_freq_factor);
  const float original = static_cast<float>(scaling.original_positions);
  const float longest = static_cast<float>(scaling.original_positions / scaling.low_freq_factor);
  const float shortest = static_cast<float>(scaling.original_positions / scaling.high_freq_factor);
  for (float& freq : rope.inv_freq) {
    const float wavelength = static_cast<float>(2.0 * M_PI) / freq;
    if (wavelength < shortest) continue;
    if (wavelength > longest) {
      freq /= factor;
      continue;
    }
    const float smooth = (original / wavelength - low) / range;
    freq = (1.0f - smooth) * freq / factor + smooth * freq;
  }
  return rope;
}

}  // namespace tessera
