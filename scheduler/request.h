// A request to an engine, and the events that the engine sends for it. A request is resolved and
// validated: it contains token ids and numbers, no text to tokenise and no protobuf. The server
// does tokenisation, stop strings and defaults.
//
// The caller makes a request; the engine owns it after Submit, and it is immutable from then on.
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
  kEmbed = 1,  // returns the mean of the prompt's final hidden states; samples no token
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
  uint64_t seed = 0;  // the server draws a seed if the client gave none
  std::vector<TokenBias> logit_bias;
  int32_t n = 1;  // number of sequences to generate for the prompt
};

struct StoppingParams {
  int64_t max_tokens = 0;  // at least 1; the server has cut it to the room in the model's context
  int64_t min_tokens = 0;  // eos and stop ids are banned before so many tokens are generated
  std::vector<TokenId> eos_ids;
  std::vector<TokenId> stop_ids;
  bool ignore_eos = false;
  int64_t time_limit_us = 0;  // measured from the arrival; 0: no limit
};

struct OutputToken {
  TokenId token = 0;
  float logprob = 0.0f;           // valid if the request asks for logprobs
  std::vector<TokenLogprob> top;  // the most probable tokens, best first
};

struct SequenceUsage {
  int64_t prompt_tokens = 0;
  int64_t cached_prompt_tokens = 0;
  int64_t completion_tokens = 0;
};

struct SequenceTiming {
  int64_t queue_us = 0;    // time from the arrival to the first step
  int64_t prefill_us = 0;  // time from the first step to the first token
  int64_t decode_us = 0;   // time from the first token to the last token
  int64_t ttft_us = 0;     // time from the arrival to the first token; 0 without a token
};

// An event of one sequence of a request.
struct TokenEvent {
  enum class Kind : int32_t {
    // `tokens` has the prompt tokens that a step has scored, with their logprobs. The events of a
    // request together have every prompt token except the first, in order. Only the request's
    // sequence 0 has them, at least one, before its first kToken.
    kPromptLogprobs,
    kToken,      // `tokens` has one new token
    kEmbedding,  // `embedding` has the result of kEmbed
    kFinished,   // the last event of the sequence
  };
  Kind kind = Kind::kToken;
  int32_t index = 0;  // index of the sequence among the n of its request
  std::vector<OutputToken> tokens;
  // For kToken: the token is the eos or stop id that ends the sequence.
  bool ends_with_stop = false;
  std::vector<float> embedding;  // [hidden], L2-normalised
  // The members below are set for kFinished.
  FinishReason reason = FinishReason::kStop;
  std::optional<TokenId> matched_eos;
  std::optional<TokenId> matched_stop;
  absl::Status status;  // the error if `reason` is kError
  SequenceUsage usage;
  SequenceTiming timing;
};

// Receives the events of one request. The events of each of the request's n sequences arrive in
// order, and the last event of a sequence is its only kFinished. The engine calls Push on the
// engine thread: Push must not block and must not call the engine synchronously.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  virtual void Push(TokenEvent event) = 0;
};

// The members that every step reads are first, in one cache line.
struct Request {
  uint64_t id = 0;  // the caller chooses an id that is unique in the process
  int32_t model = 0;
  RequestKind kind = RequestKind::kGenerate;
  Priority priority = Priority::kNormal;
  // -1: no logprobs; 0: the logprob of each token; N: also the N most probable tokens.
  int32_t logprobs = -1;
  int32_t prompt_logprobs = -1;  // the same for each prompt token except the first
  bool bypass_prefix = false;    // the request shares no pages with other requests
  int64_t arrival_us = 0;        // time by the engine's clock; 0: Submit sets it
  std::shared_ptr<TokenSink> sink;
  ResolvedAdapter adapter;  // an adapter of `model`; id kNoAdapter: the base model
  // Ids in the vocabulary. 1 <= size < EngineModel::max_model_len; for kEmbed, which needs no room
  // for an output token, 1 <= size <= max_model_len.
  std::vector<TokenId> prompt;
  SamplingParams sampling;
  StoppingParams stopping;
  std::string name;  // the client's name of the request, for logs; any bytes, may be empty
  // Only requests with an equal tenant and an equal salt share pages.
  std::string tenant;
  std::string salt;
  // Quality classes and chunk methods whose approximate KV the request accepts, the preferred one
  // first. Empty: exact KV only, and the result depends on the request alone.
  std::vector<std::string> accepted_kv_classes;
};

}  // namespace tessera
