// What is asked: prompts as token ids and how many tokens to answer. Request i is a function of
// (seed, i) alone, so that two runs ask the same whatever their pace.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tessera::bench {

// Tokens; both ends included.
struct LengthRange {
  int64_t min = 0;
  int64_t max = 0;
};

// "128", or "64:256" for any length between with equal chance. `flag` names it in errors.
absl::StatusOr<LengthRange> ParseLengths(const std::string& flag, const std::string& text);

enum class WorkloadKind : int {
  kRandom,  // nothing in common: every prompt is computed whole
  kPrefix,  // groups that share a long prefix, which a prefix cache computes once
};

// Refuses those that come later by name.
absl::StatusOr<WorkloadKind> ParseWorkloadKind(const std::string& text);

struct WorkloadOptions {
  WorkloadKind kind = WorkloadKind::kRandom;
  LengthRange input = {128, 128};   // with kPrefix: what follows the prefix
  LengthRange output = {64, 64};    // generated past end-of-sequence, so that it is reached
  int64_t num_prefixes = 4;         // groups of kPrefix
  LengthRange prefix = {512, 512};  // drawn once a group
  int64_t vocab_size = 0;           // ids are drawn from [0, vocab_size)
  uint64_t seed = 0;
};

// Tokens of the longest prompt with its answer.
int64_t MaxTokens(const WorkloadOptions& options);

struct Prompt {
  std::vector<int32_t> token_ids;
  int64_t output_tokens = 0;
};

// Immutable: any thread.
class Workload final {
 public:
  // REQUIRES: vocab_size > 0 and lengths of at least one token.
  explicit Workload(const WorkloadOptions& options);

  // The i-th request. Negative ones are for warming up: they share no prefix with the others.
  Prompt At(int64_t index) const;

 private:
  const WorkloadOptions options_;
  std::vector<std::vector<int32_t>> prefixes_;  // [num_prefixes][tokens]
};

}  // namespace tessera::bench
