// Passes over one row of logits that the sampler is made of. A row is looked at in chunks; the
// maxima of the chunks tell which of them matter, so nothing here sorts a vocabulary. NaN is never
// chosen and has no mass. The order of all sums is fixed: results do not depend on threads or on
// the instruction set. Pure functions; buffers are the caller's and do not allocate once they have
// grown.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/base/types.h"
#include "kernels/sample/sample_passes.h"

namespace tessera::sampling {

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

// The smallest float that is not below `value`.
float CeilToFloat(double value);

// The lowest logit that has a weight; those below it are taken to have none.
float LeastLogit(const Softmax& softmax);

// One row, and the table that computes on it.
class LogitRow final {
 public:
  LogitRow(const float* logits, int64_t vocab, const Passes* passes)
      : logits_(logits), vocab_(vocab), passes_(passes) {}

  const float* logits() const { return logits_; }
  int64_t vocab() const { return vocab_; }
  int64_t num_chunks() const { return CeilDiv(vocab_, kChunk); }
  const Passes& passes() const { return *passes_; }

  static TokenId FirstToken(int64_t chunk) { return static_cast<TokenId>(chunk * kChunk); }

  // kChunk logits: where they lie, or in `padded`, ended by -infinity.
  using Padded = std::array<float, kChunk>;
  const float* Chunk(int64_t chunk, Padded* padded) const;

 private:
  const float* logits_;
  int64_t vocab_;
  const Passes* passes_;
};

// maxima := the largest logit of each chunk (-infinity where there is none). Returns the largest of
// all.
float ChunkMaxima(const LogitRow& row, std::vector<float>* maxima);

// The lowest id whose logit is `maximum`. REQUIRES: there is one.
TokenId FindMaximum(const LogitRow& row, const std::vector<float>& maxima, float maximum);

// masses := the sum of the weights of the kept tokens of each chunk. Returns the total.
double ChunkMasses(const LogitRow& row, const std::vector<float>& maxima, const Softmax& softmax,
                   const Cut& kept, std::vector<double>* masses);

// candidates := the k best tokens in no particular order, the k-th best last; fewer when fewer are
// numbers; without weights. REQUIRES: k >= 1.
void SelectBest(const LogitRow& row, const std::vector<float>& maxima, int64_t k,
                std::vector<float>* maxima_scratch, std::vector<Candidate>* candidates);

// candidates := the tokens with lowest <= logit <= highest, ascending ids, without weights.
void SelectWithin(const LogitRow& row, const std::vector<float>& maxima, float lowest,
                  float highest, std::vector<Candidate>* candidates);

// Sets the candidates' weights; returns their sum.
double Weigh(const LogitRow& row, const Softmax& softmax, std::vector<Candidate>* candidates);

// The smallest prefix of the candidates' order whose weights sum to at least `mass`; all of them if
// they do not reach it. Reorders and drops candidates. REQUIRES: there is one.
Cut CutByMass(double mass, std::vector<Candidate>* candidates);

// The first kept token, in ascending ids, at which the running sum of weights passes `point`; the
// last one if rounding lets none. `masses` are from ChunkMasses with the same arguments.
TokenId Draw(const LogitRow& row, const Softmax& softmax, const Cut& kept,
             const std::vector<double>& masses, double point);

}  // namespace tessera::sampling
