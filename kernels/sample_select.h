// Passes over one row of logits that the sampler is made of. A row is looked at in chunks; the
// maxima of the chunks tell which of them matter, so nothing here sorts a vocabulary. NaN is never
// chosen and has no mass. The order of all sums is fixed: results do not depend on threads or on
// the instruction set. Pure functions; buffers are the caller's and do not allocate once they have
// grown.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/base/types.h"

namespace tessera::sampling {

inline constexpr int64_t kChunk = 128;  // logits

struct Candidate {
  float value = 0.0f;   // logit
  float weight = 0.0f;  // exp((value - maximum) / temperature)
  TokenId id = 0;
};

// The order of tokens: larger logits first, then lower ids.
inline bool Better(const Candidate& a, const Candidate& b) {
  return a.value > b.value || (a.value == b.value && a.id < b.id);
}

// A prefix of that order: tokens above `value`, and those equal to it up to `last_id`. The default
// keeps all that are possible at all.
struct Cut {
  float value = -std::numeric_limits<float>::infinity();
  TokenId last_id = -1;
};
Cut Stricter(const Cut& a, const Cut& b);

// The softmax that weights are taken from: exp((logit - maximum) * inverse_temperature).
struct Softmax {
  float maximum = 0.0f;
  float inverse_temperature = 1.0f;
};
float Weight(const Softmax& softmax, float logit);

// maxima := the largest logit of each chunk (-infinity where there is none). Returns the largest of
// all.
float ChunkMaxima(const float* logits, int64_t vocab, std::vector<float>* maxima);

// The lowest id whose logit is `maximum`. REQUIRES: there is one.
TokenId FindMaximum(const float* logits, int64_t vocab, const std::vector<float>& maxima,
                    float maximum);

// masses := the sum of the weights of the kept tokens of each chunk. Returns the total.
double ChunkMasses(const float* logits, int64_t vocab, const std::vector<float>& maxima,
                   const Softmax& softmax, const Cut& kept, std::vector<double>* masses);

// candidates := the k best tokens in no particular order, the k-th best last; fewer when fewer are
// numbers. REQUIRES: k >= 1.
void SelectBest(const float* logits, int64_t vocab, const std::vector<float>& maxima, int64_t k,
                std::vector<float>* maxima_scratch, std::vector<Candidate>* candidates);

// candidates := the tokens with logits >= `lowest`, ascending ids.
void SelectAbove(const float* logits, int64_t vocab, const std::vector<float>& maxima, float lowest,
                 std::vector<Candidate>* candidates);

// The smallest prefix of the candidates' order whose weights sum to at least `mass`; all of them if
// they do not reach it. Reorders and drops candidates. REQUIRES: there is one.
Cut CutByMass(double mass, std::vector<Candidate>* candidates);

// The first kept token, in ascending ids, at which the running sum of weights passes `point`; the
// last one if rounding lets none. `masses` are from ChunkMasses with the same arguments.
TokenId Draw(const float* logits, int64_t vocab, const Softmax& softmax, const Cut& kept,
             const std::vector<double>& masses, double point);

}  // namespace tessera::sampling
