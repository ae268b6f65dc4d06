// The requests of a run: prompts as token ids, and the number of tokens to generate. Request i
// depends on (seed, i) alone, so that two runs send the same requests at any rate.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tessera::bench {

// A range of lengths in tokens; both ends belong to the range.
struct LengthRange {
  int64_t min = 0;
  int64_t max = 0;
};

// Parses "128", or "64:256" for uniform lengths in that range. Errors name `flag`.
absl::StatusOr<LengthRange> ParseLengths(const std::string& flag, const std::string& text);

enum class WorkloadKind : int {
  kRandom,  // prompts share no prefix
  kPrefix,  // the prompts of a group share a long prefix, which a prefix cache computes once
};

// Parses the name of a workload. Workloads of later releases are refused by name.
absl::StatusOr<WorkloadKind> ParseWorkloadKind(const std::string& text);

struct WorkloadOptions {
  WorkloadKind kind = WorkloadKind::kRandom;
  LengthRange input = {128, 128};   // prompt's length; with kPrefix without the shared prefix
  LengthRange output = {64, 64};    // answer's length; generation ignores end-of-sequence ids
  int64_t num_prefixes = 4;         // number of groups of kPrefix
  LengthRange prefix = {512, 512};  // prefix's length, drawn once for each group
  int64_t vocab_size = 0;           // ids are drawn from [0, vocab_size)
  uint64_t seed = 0;
};

// The largest number of tokens that a prompt and its answer may have together.
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

  // The request with this index. Negative indices are warm-up requests, which share no prefix with
  // the others.
  Prompt At(int64_t index) const;

 private:
  const WorkloadOptions options_;
  std::vector<std::vector<int32_t>> prefixes_;  // [num_prefixes][tokens]
};

}  // namespace tessera::bench
