#include "kernels/sample/sample.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/sample/philox.h"
#include "kernels/sample/sample_nucleus.h"

namespace tessera {
namespace {

using sampling::Candidate;
using sampling::Cut;
using sampling::LogitRow;
using sampling::Softmax;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The log-softmax of a row of logits, computed in fp64.
class RawLogprobs {
 public:
  RawLogprobs() = default;
  RawLogprobs(const LogitRow& row, SampleScratch* scratch) {
    maximum_ = sampling::ChunkMaxima(row, &scratch->maxima, &scratch->odd_chunks);
    if (!std::isfinite(maximum_)) return;
    log_sum_ = std::log(
        sampling::ChunkMasses(row, scratch->maxima, {maximum_, 1.0f}, {}, &scratch->masses));
  }

  // Returns the log-probability of a token with this logit.
  float Of(float logit) const {
    if (logit == kInfinity) return 0.0f;
    if (!std::isfinite(logit) || !std::isfinite(maximum_)) return -kInfinity;
    return static_cast<float>(static_cast<double>(logit) - maximum_ - log_sum_);
  }

 private:
  float maximum_ = 0.0f;
  double log_sum_ = 0.0;  // log of the sum of exp(logit - maximum_) over the row
};

// Writes the `count` best tokens with their log-probabilities to `top`, best first. Returns the
// number written. REQUIRES: scratch->maxima holds the chunk maxima of `logits`.
int32_t WriteTop(const RawLogprobs& logprobs, const LogitRow& logits, int32_t count,
                 SampleScratch* scratch, TokenLogprob* top) {
  std::vector<Candidate>& best = scratch->candidates;
  sampling::SelectBest(logits, scratch->maxima, count, &scratch->maxima_copy, &best);
  std::sort(best.begin(), best.end(), sampling::Better);
  for (size_t i = 0; i < best.size(); ++i) top[i] = {best[i].id, logprobs.Of(best[i].value)};
  return static_cast<int32_t>(best.size());
}

void ApplyPenalties(const SamplerRow& row, const TokenCount* counts, int64_t vocab, float* logits) {
  for (int32_t i = 0; i < row.counts.count; ++i) {
    const TokenCount& seen = counts[i];
    if (seen.token < 0 || seen.token >= vocab) continue;
    float& logit = logits[seen.token];
    if (seen.in_prompt != 0 || seen.output_count > 0) {
      logit = logit > 0.0f ? logit / row.repetition_penalty : logit * row.repetition_penalty;
    }
    if (seen.output_count > 0) {
      logit -= row.presence_penalty;
      logit -= row.frequency_penalty * static_cast<float>(seen.output_count);
    }
  }
}

void ApplyBiases(const SamplerRow& row, const TokenBias* biases, int64_t vocab, float* logits) {
  for (int32_t i = 0; i < row.biases.count; ++i) {
    const TokenId token = biases[i].token;
    if (token >= 0 && token < vocab) logits[token] += biases[i].bias;
  }
}

bool Allowed(const uint32_t* mask, int64_t token) {
  return mask == nullptr || ((mask[token / 32] >> (token % 32)) & 1u) != 0;
}

void ApplyMask(const uint32_t* mask, int64_t vocab, float* logits) {
  for (int64_t begin = 0; begin < vocab; begin += 32) {
    const uint32_t word = mask[begin / 32];
    if (word == ~0u) continue;
    const int64_t end = std::min<int64_t>(begin + 32, vocab);
    for (int64_t i = begin; i < end; ++i) {
      if (((word >> (i - begin)) & 1u) == 0) logits[i] = -kInfinity;
    }
  }
}

// Saves the logits of the tokens that penalties and biases will change. A token with both a bias
// and a count is saved twice, with the same value.
void SaveLogits(const SamplerRow& row, const TokenBias* biases, const TokenCount* counts,
                const float* logits, int64_t vocab, std::vector<TokenLogprob>* before) {
  before->clear();
  const auto save = [&](TokenId token) {
    if (token >= 0 && token < vocab) before->push_back({token, logits[token]});
  };
  for (int32_t i = 0; i < row.biases.count; ++i) save(biases[i].token);
  for (int32_t i = 0; i < row.counts.count; ++i) save(counts[i].token);
}

// Returns the token's logit from before penalties and biases. TokenLogprob::logprob holds the logit
// in `before`.
float LogitBefore(const std::vector<TokenLogprob>& before, TokenId token, const float* logits) {
  for (const TokenLogprob& saved : before) {
    if (saved.token == token) return saved.logprob;
  }
  return logits[token];
}

// Returns whether all logits were finite before penalties and biases. Sorts scratch->before by
// token. REQUIRES: scratch->odd_chunks is that of `row`, scratch->before holds the logits that were
// changed.
bool WasFinite(const LogitRow& row, SampleScratch* scratch) {
  std::vector<TokenLogprob>& before = scratch->before;
  const auto is_finite = [](const TokenLogprob& saved) { return std::isfinite(saved.logprob); };
  if (!std::all_of(before.begin(), before.end(), is_finite)) return false;
  if (scratch->odd_chunks.empty()) return true;
  const auto by_token = [](const TokenLogprob& a, const TokenLogprob& b) {
    return a.token < b.token;
  };
  std::sort(before.begin(), before.end(), by_token);
  const float* const logits = row.logits();
  for (const int64_t chunk : scratch->odd_chunks) {
    const TokenId begin = LogitRow::FirstToken(chunk);
    const int64_t end = std::min<int64_t>(begin + sampling::kChunk, row.vocab());
    for (TokenId token = begin; token < end; ++token) {
      if (std::isfinite(logits[token])) continue;
      const TokenLogprob wanted{token, 0.0f};
      if (!std::binary_search(before.begin(), before.end(), wanted, by_token)) return false;
    }
  }
  return true;
}

// Returns the cut that keeps exactly the tokens that top_k and top_p allow. REQUIRES:
// scratch->maxima holds the chunk maxima of `logits`.
Cut CutByRank(const SamplerRow& row, const LogitRow& logits, const Softmax& softmax,
              SampleScratch* scratch) {
  const bool by_mass = row.top_p < 1.0f;
  std::vector<Candidate>& candidates = scratch->candidates;
  if (row.top_k > 0 && row.top_k < logits.vocab()) {
    sampling::SelectBest(logits, scratch->maxima, row.top_k, &scratch->maxima_copy, &candidates);
    if (!by_mass) return {candidates.back().value, candidates.back().id};
    const double total = sampling::Weigh(logits, softmax, &candidates);
    return sampling::CutByMass(row.top_p * total, &candidates);
  }
  if (!by_mass) return {};
  const double total =
      sampling::ChunkMasses(logits, scratch->maxima, softmax, {}, &scratch->masses);
  return sampling::FindNucleus(logits, scratch->maxima, softmax, row.top_p, total, &candidates);
}

// Samples a token with the row's temperature, top_k, top_p and min_p. REQUIRES: scratch->maxima
// holds the chunk maxima of `logits`; `maximum` is the largest of them and finite.
TokenId SampleByTemperature(const SamplerRow& row, const LogitRow& logits, float maximum,
                            SampleScratch* scratch) {
  const Softmax softmax{maximum,
                        std::min(1.0f / row.temperature, std::numeric_limits<float>::max())};
  Cut kept = CutByRank(row, logits, softmax, scratch);
  if (row.min_p > 0.0f) {
    const double lowest = maximum + static_cast<double>(row.temperature) *
                                        std::log(std::min(1.0, static_cast<double>(row.min_p)));
    kept = sampling::Stricter(kept,
                              {sampling::CeilToFloat(lowest), std::numeric_limits<TokenId>::max()});
  }
  const double total =
      sampling::ChunkMasses(logits, scratch->maxima, softmax, kept, &scratch->masses);
  const double uniform = UniformAt(row.seed, row.index, row.position, RandomUse::kSample);
  return sampling::Draw(logits, softmax, kept, scratch->masses, uniform * total);
}

TokenId ChooseToken(const SamplerRow& row, const uint32_t* mask, const LogitRow& logits,
                    SampleScratch* scratch) {
  const float maximum = sampling::ChunkMaxima(logits, &scratch->maxima, &scratch->odd_chunks);
  if (maximum == -kInfinity) {
    for (int64_t token = 0; token < logits.vocab(); ++token) {
      if (Allowed(mask, token)) return static_cast<TokenId>(token);
    }
    return 0;
  }
  if (row.temperature > 0.0f && maximum < kInfinity) {
    return SampleByTemperature(row, logits, maximum, scratch);
  }
  return sampling::FindMaximum(logits, scratch->maxima, maximum);
}

}  // namespace

void SampleRow(const SamplerRow& row, const TokenBias* biases, const TokenCount* counts,
               const uint32_t* mask, float* logits, int64_t vocab, SampleScratch* scratch,
               SampledRow* out, TokenLogprob* top) {
  const bool score = row.target >= 0;
  out->token = row.target;
  out->logprob = 0.0f;
  out->top.count = 0;
  const LogitRow view(logits, vocab, scratch->passes);
  RawLogprobs logprobs;
  const bool looks_first = score || row.num_logprobs >= 0 || mask != nullptr;
  if (looks_first) {
    logprobs = RawLogprobs(view, scratch);
    out->is_finite = scratch->odd_chunks.empty();
  }
  if (row.num_logprobs > 0) {
    const int32_t count = static_cast<int32_t>(std::min<int64_t>(row.num_logprobs, vocab));
    out->top.count = WriteTop(logprobs, view, count, scratch, top);
  }
  if (score) {
    out->logprob = row.target < vocab ? logprobs.Of(logits[row.target]) : -kInfinity;
    return;
  }
  SaveLogits(row, biases, counts, logits, vocab, &scratch->before);
  ApplyPenalties(row, counts, vocab, logits);
  ApplyBiases(row, biases, vocab, logits);
  if (mask != nullptr) ApplyMask(mask, vocab, logits);
  out->token = ChooseToken(row, mask, view, scratch);
  if (!looks_first) out->is_finite = WasFinite(view, scratch);
  if (row.num_logprobs >= 0) {
    out->logprob = logprobs.Of(LogitBefore(scratch->before, out->token, logits));
  }
}

void BeginSample(const SampleArgs& args) {
  const SamplerRow* rows = args.batch.data(args.batch.batch->sampler_rows);
  int64_t top_begin = NumTop(args.batch, args.row_begin);
  for (int32_t r = args.row_begin; r < args.row_begin + args.num_rows; ++r) {
    args.rows[r].top = {static_cast<int32_t>(top_begin), 0};
    top_begin += std::max(rows[r].num_logprobs, 0);
  }
}

void SampleRows(const SampleArgs& args, int row_begin, int row_end, SampleScratch* scratch) {
  const StepBatch& batch = *args.batch.batch;
  for (int r = row_begin; r < row_end; ++r) {
    const SamplerRow& row = args.batch.data(batch.sampler_rows)[args.row_begin + r];
    const uint32_t* mask = row.mask < 0 ? nullptr : args.batch.data(batch.masks) + row.mask;
    SampledRow* out = &args.rows[args.row_begin + r];
    SampleRow(row, args.batch.data(batch.biases) + row.biases.begin,
              args.batch.data(batch.counts) + row.counts.begin, mask, args.logits.f32(r),
              args.logits.cols, scratch, out, args.top + out->top.begin);
  }
}

void EndSample(const SampleArgs& args) {
  const SamplerRow* rows = args.batch.data(args.batch.batch->sampler_rows) + args.row_begin;
  for (int32_t r = 0; r < args.num_rows; ++r) {
    if (rows[r].target >= 0 || rows[r].slot < 0) continue;
    args.slot_tokens[rows[r].slot] = args.rows[args.row_begin + r].token;
  }
}

}  // namespace tessera
