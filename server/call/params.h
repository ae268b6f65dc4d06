// Converts the sampling, stopping and output options of a request from protobuf to the engine's
// structs and checks every number. Pure functions; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "scheduler/request.h"

namespace tessera {

namespace v1 {
class OutputOptions;
class SamplingParams;
class StoppingParams;
}  // namespace v1

struct ServedModel;

// The stop strings of a request. The server looks for them in the text; the engine does not know
// them.
struct TextStops {
  std::vector<std::string> strings;
  // The stop strings that are the text of a special token. The engine has their ids as stop ids,
  // because the text may leave special tokens out.
  std::vector<std::pair<TokenId, std::string>> special;
  bool include_stop = false;
  // Stop strings are ignored in the first `min_tokens` output tokens.
  int64_t min_tokens = 0;
};

// Checks that the numbers of *sampling are in the ranges that SamplingParams in inference.proto
// states, and replaces a top_k of -1 (off) by 0. Errors call a field `prefix` and its name. For the
// parameters of a request and for the defaults of a model.
absl::Status ValidateSampling(absl::string_view prefix, SamplingParams* sampling);

// A field that the request leaves out gets the model's default; a missing seed is drawn at random.
absl::Status ReadSampling(const v1::SamplingParams& wire, const ServedModel& model,
                          SamplingParams* sampling);

// Cuts max_tokens to the tokens that the prompt leaves free in the context. The result replaces
// *stopping and *stops.
// REQUIRES: prompt_tokens < model.max_model_len.
absl::Status ReadStopping(const v1::StoppingParams& wire, const ServedModel& model,
                          int64_t prompt_tokens, StoppingParams* stopping, TextStops* stops);

absl::Status ReadOutputOptions(const v1::OutputOptions& wire, int64_t prompt_tokens,
                               Request* request);

// Checks that every id is in [0, model.vocab_size). The error names `field` and the index of the
// first wrong id.
absl::Status CheckTokenIds(absl::string_view field, const int32_t* ids, int64_t count,
                           const ServedModel& model);

}  // namespace tessera
