#include "bench/serve/workload.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "bench/serve/random.h"
#include "kernels/base/log.h"

namespace tessera::bench {
namespace {

constexpr uint64_t kPrefixStream = 1ULL << 62;  // differs from the streams of all requests
constexpr int64_t kMaxLength = 16 << 20;        // a message of 64 MiB has at most so many ids

void AppendRandomIds(int64_t count, int64_t vocab_size, Random* random, std::vector<int32_t>* ids) {
  ids->reserve(ids->size() + static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    ids->push_back(static_cast<int32_t>(random->Between(0, vocab_size - 1)));
  }
}

}  // namespace

absl::StatusOr<LengthRange> ParseLengths(const std::string& flag, const std::string& text) {
  const std::vector<std::string> ends = absl::StrSplit(text, ':');
  LengthRange range;
  if (ends.size() > 2 || !absl::SimpleAtoi(ends.front(), &range.min) ||
      !absl::SimpleAtoi(ends.back(), &range.max)) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, " is '", text, "'; give tokens (128) or a range (64:256)"));
  }
  if (range.min < 1 || range.max > kMaxLength) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, " is '", text, "'; give 1 to ", kMaxLength, " tokens"));
  }
  if (range.min > range.max) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, " is '", text, "'; give the smaller length first"));
  }
  return range;
}

absl::StatusOr<WorkloadKind> ParseWorkloadKind(const std::string& text) {
  if (text == "random") return WorkloadKind::kRandom;
  if (text == "prefix") return WorkloadKind::kPrefix;
  for (const char* later : {"sharegpt", "trace", "sonnet", "lora"}) {
    if (text == later) {
      return absl::UnimplementedError(
          absl::StrCat("--workload ", text, " comes in a later release; give random or prefix"));
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--workload is '", text, "'; give random or prefix"));
}

int64_t MaxTokens(const WorkloadOptions& options) {
  const int64_t prefix = options.kind == WorkloadKind::kPrefix ? options.prefix.max : 0;
  return prefix + options.input.max + options.output.max;
}

Workload::Workload(const WorkloadOptions& options) : options_(options) {
  CHECK_GT(options_.vocab_size, 0);
  CHECK_GT(options_.input.min, 0);
  CHECK_GT(options_.output.min, 0);
  if (options_.kind != WorkloadKind::kPrefix) return;
  CHECK_GT(options_.num_prefixes, 0);
  prefixes_.resize(static_cast<size_t>(options_.num_prefixes));
  for (size_t group = 0; group < prefixes_.size(); ++group) {
    Random random(options_.seed, kPrefixStream + group);
    const int64_t length = random.Between(options_.prefix.min, options_.prefix.max);
    AppendRandomIds(length, options_.vocab_size, &random, &prefixes_[group]);
  }
}

Prompt Workload::At(int64_t index) const {
  Random random(options_.seed, static_cast<uint64_t>(index));
  Prompt prompt;
  int64_t input_tokens = random.Between(options_.input.min, options_.input.max);
  prompt.output_tokens = random.Between(options_.output.min, options_.output.max);
  if (options_.kind == WorkloadKind::kPrefix) {
    const auto group = static_cast<size_t>(random.Between(0, options_.num_prefixes - 1));
    if (index >= 0) {
      prompt.token_ids = prefixes_[group];
    } else {
      input_tokens += static_cast<int64_t>(prefixes_[group].size());
    }
  }
  AppendRandomIds(input_tokens, options_.vocab_size, &random, &prompt.token_ids);
  return prompt;
}

}  // namespace tessera::bench
