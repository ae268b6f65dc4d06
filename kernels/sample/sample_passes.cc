#include "kernels/sample/sample_passes.h"

#include <math.h>
#include <string.h>

// The build defines TESSERA_SAMPLE_ISA as `plain` or as the name of an instruction set.
namespace tessera::sampling::TESSERA_SAMPLE_ISA {
namespace {

constexpr int kLanes = 16;

// Returns `value` if `condition` holds, else 0, without a branch.
inline float Select(bool condition, float value) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, value) & (condition ? ~0u : 0u);
  return __builtin_bit_cast(float, bits);
}

// Returns exp(x) for x in [kLeastExponent, 0] within 2 units in the last place. Outside this range
// the result is arbitrary (any number or NaN). The function is plain arithmetic, so that the
// compiler can vectorise it and every machine gives the same bits. It computes 2^n * 2^f with
// x = (n + f) ln 2 and |f| <= 1/2, by the polynomial of Cephes' expf.
inline float ExpNegative(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding this rounds to the nearest integer
  const float shifted = x * 1.44269504088896341f + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const uint32_t exponent = __builtin_bit_cast(uint32_t, shifted) << 23;
  return __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, p) + exponent);
}

// Vectors that every x86-64 has. The compiler does not vectorise the loop of Maximum by itself.
using Floats = float __attribute__((vector_size(16)));
using Bits = int32_t __attribute__((vector_size(16)));
constexpr int kVectors = 4;  // vectors of kLanes floats

// The bits of the absolute value of a float, as integers, ascend with the absolute value. Those of
// infinity are kInfinityBits, and those of NaN are larger.
float Maximum(const float* logits, bool* is_finite) {
  constexpr int32_t kAbsoluteBits = 0x7fffffff;
  constexpr int32_t kInfinityBits = 0x7f800000;
  Floats maxima[kVectors];
  Bits largest[kVectors] = {};  // bits of the largest absolute values
  for (Floats& maximum : maxima) maximum = Floats{} - INFINITY;
  for (int i = 0; i < kChunk; i += kLanes) {
    for (int v = 0; v < kVectors; ++v) {
      Floats x;
      memcpy(&x, logits + i + 4 * v, sizeof(x));
      maxima[v] = x > maxima[v] ? x : maxima[v];
      const Bits bits = __builtin_bit_cast(Bits, x) & kAbsoluteBits;
      largest[v] = bits > largest[v] ? bits : largest[v];
    }
  }
  float maximum = maxima[0][0];
  *is_finite = true;
  for (int j = 0; j < kLanes; ++j) {
    const float lane = maxima[j / 4][j % 4];
    maximum = lane > maximum ? lane : maximum;
    *is_finite = *is_finite && largest[j / 4][j % 4] < kInfinityBits;
  }
  return maximum;
}

inline void ChunkWeights(const float* logits, const Softmax& softmax, float lowest,
                         float* weights) {
  for (int i = 0; i < kChunk; ++i) {
    const float x = (logits[i] - softmax.maximum) * softmax.inverse_temperature;
    weights[i] = Select(logits[i] >= lowest, ExpNegative(x));
  }
}

void Weights(const float* logits, const Softmax& softmax, float lowest, float* weights) {
  ChunkWeights(logits, softmax, lowest, weights);
}

double Mass(const float* logits, const Softmax& softmax, float lowest) {
  float weights[kChunk];
  ChunkWeights(logits, softmax, lowest, weights);
  double lanes[kLanes] = {};
  for (int i = 0; i < kChunk; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) lanes[j] += static_cast<double>(weights[i + j]);
  }
  for (int j = 0; j < 8; ++j) lanes[j] += lanes[j + 8];
  for (int j = 0; j < 4; ++j) lanes[j] += lanes[j + 4];
  return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
}

void Mark(const float* logits, float lowest, float highest, uint8_t* inside) {
  for (int i = 0; i < kChunk; ++i) {
    inside[i] = static_cast<uint8_t>((logits[i] >= lowest) & (logits[i] <= highest));
  }
}

}  // namespace

extern const Passes kPasses;  // without this line the constant would have internal linkage
const Passes kPasses = {&Maximum, &Weights, &Mass, &Mark};

}  // namespace tessera::sampling::TESSERA_SAMPLE_ISA
