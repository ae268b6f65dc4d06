// The passes over one row of logits from which the sampler is built. A row is divided into chunks
// of kChunk logits; a pass skips the chunks whose maximum is too low, so no function here sorts the
// whole vocabulary. A NaN logit is never chosen and has weight 0. The order of all sums is fixed,
// so results do not depend on the number of threads or on the instruction set. Pure functions; any
// thread. The caller owns the buffers, which do not allocate once they have reached their largest
// size.
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
  float weight = 0.0f;  // exp((value - maximum) / temperature), set by Weigh
  TokenId id = 0;
};

// The order of tokens: the larger logit is better, and of equal logits the lower id.
inline bool Better(const Candidate& a, const Candidate& b) {
  return a.value > b.value || (a.value == b.value && a.id < b.id);
}

// A prefix of the best-first order of tokens: all tokens with a logit above `value`, and the tokens
// with the logit `value` and an id <= last_id. The default keeps all tokens with a logit above
// -infinity.
struct Cut {
  float value = -std::numeric_limits<float>::infinity();
  TokenId last_id = -1;
};
// Returns the cut that keeps fewer tokens.
Cut Stricter(const Cut& a, const Cut& b);

// Returns the smallest float that is >= value.
float CeilToFloat(double value);

// Returns the lowest logit whose weight is computed. Tokens with a lower logit have weight 0.
float LeastLogit(const Softmax& softmax);

// One row of logits, with the functions that compute on its chunks.
class LogitRow final {
 public:
  LogitRow(const float* logits, int64_t vocab, const Passes* passes)
      : logits_(logits), vocab_(vocab), passes_(passes) {}

  const float* logits() const { return logits_; }
  int64_t vocab() const { return vocab_; }
  int64_t num_chunks() const { return CeilDiv(vocab_, kChunk); }
  const Passes& passes() const { return *passes_; }

  static TokenId FirstToken(int64_t chunk) { return static_cast<TokenId>(chunk * kChunk); }

  // Returns the kChunk logits of a chunk. The result points into the row, or to `padded` if the
  // chunk is shorter than kChunk; the copy in `padded` is filled up with -infinity.
  using Padded = std::array<float, kChunk>;
  const float* Chunk(int64_t chunk, Padded* padded) const;

 private:
  const float* logits_;
  int64_t vocab_;
  const Passes* passes_;
};

// maxima := the largest logit of each chunk, or -infinity if all its logits are NaN. `odd_chunks`
// := the chunks with a logit that is NaN or infinite. Returns the largest logit of the row.
float ChunkMaxima(const LogitRow& row, std::vector<float>* maxima,
                  std::vector<int64_t>* odd_chunks);

// Returns the lowest id whose logit is `maximum`. REQUIRES: the logit of at least one token is
// `maximum`.
TokenId FindMaximum(const LogitRow& row, const std::vector<float>& maxima, float maximum);

// masses := the sum of the weights of the kept tokens of each chunk. Returns the sum of `masses`.
double ChunkMasses(const LogitRow& row, const std::vector<float>& maxima, const Softmax& softmax,
                   const Cut& kept, std::vector<double>* masses);

// candidates := the k best tokens, the worst of them last and the others in no particular order.
// There are fewer than k if fewer than k logits are not NaN. Does not set weights. REQUIRES: k
// >= 1.
void SelectBest(const LogitRow& row, const std::vector<float>& maxima, int64_t k,
                std::vector<float>* maxima_scratch, std::vector<Candidate>* candidates);

// candidates := the tokens with lowest <= logit <= highest, in ascending order of ids. Does not set
// weights.
void SelectWithin(const LogitRow& row, const std::vector<float>& maxima, float lowest,
                  float highest, std::vector<Candidate>* candidates);

// Sets the weights of the candidates and returns their sum.
double Weigh(const LogitRow& row, const Softmax& softmax, std::vector<Candidate>* candidates);

// Returns the cut that keeps the smallest best-first prefix of the candidates whose weights sum to
// at least `mass`, or all candidates if their sum is less. Reorders and removes candidates.
// REQUIRES: `candidates` is not empty.
Cut CutByMass(double mass, std::vector<Candidate>* candidates);

// Returns the first kept token, in ascending order of ids, at which the running sum of weights
// exceeds `point`. Returns the last kept token if rounding keeps the sum from exceeding `point`.
// REQUIRES: `masses` comes from ChunkMasses with the same row, softmax and cut.
TokenId Draw(const LogitRow& row, const Softmax& softmax, const Cut& kept,
             const std::vector<double>& masses, double point);

}  // namespace tessera::sampling
