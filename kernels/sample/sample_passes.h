// The sampler's arithmetic over one chunk of logits: a table of plain functions. Its one source is
// compiled once as plain code and once per instruction set with that set's flags; without
// contraction and with a fixed order of all sums, so every table gives the same bits. NaN is never
// the maximum and has no weight. Callers pad the last chunk of a row with -infinity.
//
// Holds only PODs and constants: see the one-definition rule in kernels/cpu/isa_kernels.h.
#pragma once

#include <cstdint>

namespace tessera::sampling {

inline constexpr int64_t kChunk = 256;  // logits

// The softmax that weights are taken from: exp((logit - maximum) * inverse_temperature).
struct Softmax {
  float maximum = 0.0f;
  float inverse_temperature = 1.0f;
};

// `logits` are kChunk.
struct Passes {
  // -infinity where none is a number.
  float (*maximum)(const float* logits) = nullptr;
  // weights[i] := that of logits[i], 0 below `lowest`. REQUIRES: (lowest - softmax.maximum) *
  // softmax.inverse_temperature >= kLeastExponent.
  void (*weights)(const float* logits, const Softmax& softmax, float lowest,
                  float* weights) = nullptr;
  // The sum of these weights.
  double (*mass)(const float* logits, const Softmax& softmax, float lowest) = nullptr;
  // inside[i] := 1 where lowest <= logits[i] <= highest, else 0.
  void (*mark)(const float* logits, float lowest, float highest, uint8_t* inside) = nullptr;
};
inline constexpr float kLeastExponent = -87.0f;  // exp of less is not a normal number

namespace plain {
extern const Passes kPasses;
}

}  // namespace tessera::sampling
