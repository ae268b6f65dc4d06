// What a caller asks of an engine, resolved and validated: token ids, numbers and ids, no text and
// no protobuf. Immutable after Submit. Tokenisation, text stops and defaults are the server's
// business.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/base/types.h"
#include "kernels/step/step_result.h"
#include "scheduler/residency/adapters/adapter_id.h"

namespace tessera {

enum class Priority : int32_t { kLow = 0, kNormal = 1, kHigh = 2 };
inline constexpr int kNumPriorities = 3;

enum class RequestKind : int32_t {
  kGenerate = 0,
  kEmbed = 1,  // mean of the final hidden states over the prompt; nothing is sampled
};

enum class FinishReason : int32_t {
  kStop = 0,
  kLength = 1,
  kTimeLimit = 2,
  kCancelled = 3,
  kQuota = 4,
  kError = 5,
};
inline constexpr int kNumFinishReasons = 6;
const char* FinishReasonName(FinishReason reason);  // "stop", "length", ...

struct SamplingParams {
  float temperature = 1.0f;  // 0: greedy
  int32_t top_k = 0;         // 0: off
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  uint64_t seed = 0;  // already drawn when the caller gave none
  std::vector<TokenBias> logit_bias;
  int32_t n = 1;
};

struct StoppingParams {
  int64_t max_tokens = 0;  // >= 1; already cut to what the context leaves
  int64_t min_tokens = 0;  // until then eos and stop ids are banned
  std::vector<TokenId> eos_ids;
  std::vector<TokenId> stop_ids;
  bool ignore_eos = false;
  int64_t time_limit_us = 0;  // from arrival; 0: none
};

// Events of one request, in order per index. Called on the engine thread: must not block, may not
// call back into the engine synchronously. Exactly one kFinished per index is the last event of
// that index.
struct OutputToken {
  TokenId token = 0;
  float logprob = 0.0f;           // valid when logprobs were asked for
  std::vector<TokenLogprob> top;  // best first
};

struct SequenceUsage {
  int64_t prompt_tokens = 0;
  int64_t cached_prompt_tokens = 0;
  int64_t completion_tokens = 0;
};

struct SequenceTiming {
  int64_t queue_us = 0;    // arrival to the first step
  int64_t prefill_us = 0;  // first step to the first token
  int64_t decode_us = 0;   // first token to the last
  int64_t ttft_us = 0;     // arrival to the first token; 0 without one
};

struct TokenEvent {
  enum class Kind : int32_t {
    kPromptLogprobs,  // tokens: one per prompt token but the first, with its logprob; before any
                      // kToken; index 0 only
    kToken,
    kEmbedding,
    kFinished,
  };
  Kind kind = Kind::kToken;
  int32_t index = 0;  // which of n
  std::vector<OutputToken> tokens;
  bool ends_with_stop =
      false;  // with kToken: the last token is the eos or stop id that ends the sequence
  std::vector<float> embedding;  // [hidden], L2-normalised
  // With kFinished:
  FinishReason reason = FinishReason::kStop;
  std::optional<TokenId> matched_eos;
  std::optional<TokenId> matched_stop;
  absl::Status status;  // for kError
  SequenceUsage usage;
  SequenceTiming timing;
};

class TokenSink {
 public:
  virtual ~TokenSink() = default;
  virtual void Push(TokenEvent event) = 0;
};

// What each step asks comes first, in one cache line.
struct Request {
  uint64_t id = 0;  // unique in the process; chosen by the caller
  int32_t model = 0;
  RequestKind kind = RequestKind::kGenerate;
  Priority priority = Priority::kNormal;
  int32_t logprobs = -1;         // -1: none; 0: the chosen; N: and the N best
  int32_t prompt_logprobs = -1;  // likewise
  bool bypass_prefix = false;  // neither takes from the prefix cache nor leaves anything to others
  int64_t arrival_us = 0;      // Clock of the engine; 0: stamped by Submit
  std::shared_ptr<TokenSink> sink;
  ResolvedAdapter adapter;      // of the model; id kNoAdapter: the base model
  std::vector<TokenId> prompt;  // 1 <= size < the model's context length, ids in the vocabulary
  SamplingParams sampling;
  StoppingParams stopping;
  std::string name;  // what the client calls it, for logs; any bytes, may be empty
  std::string tenant;
  std::string salt;  // part of the prefix root: only requests with an equal salt share pages
  // Quality classes and chunk methods whose approximate KV the request accepts, the preferred one
  // first. Empty: exact KV only, and the result depends on the request alone.
  std::vector<std::string> accepted_kv_classes;
};

}  // namespace tessera
