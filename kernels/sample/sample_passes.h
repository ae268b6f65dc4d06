// The sampler's arithmetic over one chunk of logits, as a table of plain functions (`Passes`). The
// build compiles sample_passes.cc once as plain code and once per instruction set with the flags of
// that set. All tables give the same bits, because the order of every sum is fixed and the compiler
// may not contract multiply and add. A NaN logit is never the maximum and has weight 0. Callers pad
// the last chunk of a row with -infinity. Any thread.
//
// This header holds only PODs and constants: see the one-definition rule in
// kernels/cpu/isa_kernels.h.
#pragma once

#include <cstdint>

namespace tessera::sampling {

inline constexpr int64_t kChunk = 256;  // logits of a chunk

// The parameters of the softmax. The weight of a token is exp((logit - maximum) *
// inverse_temperature).
struct Softmax {
  float maximum = 0.0f;
  float inverse_temperature = 1.0f;
};

// The functions of one instruction set. All arrays have kChunk elements.
struct Passes {
  // Returns the largest logit, or -infinity if all logits are NaN. *is_finite := whether no logit
  // is NaN or infinite.
  float (*maximum)(const float* logits, bool* is_finite) = nullptr;
  // weights[i] := the weight of logits[i], or 0 if logits[i] < lowest. REQUIRES: (lowest -
  // softmax.maximum) * softmax.inverse_temperature >= kLeastExponent.
  void (*weights)(const float* logits, const Softmax& softmax, float lowest,
                  float* weights) = nullptr;
  // Returns the sum of the weights that `weights` computes from the same arguments.
  double (*mass)(const float* logits, const Softmax& softmax, float lowest) = nullptr;
  // inside[i] := 1 if lowest <= logits[i] <= highest, else 0.
  void (*mark)(const float* logits, float lowest, float highest, uint8_t* inside) = nullptr;
};
inline constexpr float kLeastExponent = -87.0f;  // below it, exp may give a subnormal number

namespace plain {
extern const Passes kPasses;
}

}  // namespace tessera::sampling
