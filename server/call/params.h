// Sampling, stopping and output options of a request: from the wire to the engine's structs, every
// number checked. Pure; any thread.
#pragma once

#include <cstdint>
#include <string>
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

// Text-level stopping, which the engine knows nothing of.
struct TextStops {
  std::vector<std::string> strings;
  bool include_stop = false;
  int64_t min_tokens = 0;  // strings are not looked for before
};

// Defaults come from the model. An absent seed is drawn.
absl::Status ReadSampling(const v1::SamplingParams& wire, const ServedModel& model,
                          SamplingParams* sampling);

// `prompt_tokens` are known by now: max_tokens is cut to what the context leaves. REQUIRES:
// prompt_tokens < model.max_model_len.
absl::Status ReadStopping(const v1::StoppingParams& wire, const ServedModel& model,
                          int64_t prompt_tokens, StoppingParams* stopping, TextStops* stops);

absl::Status ReadOutputOptions(const v1::OutputOptions& wire, int64_t prompt_tokens,
                               Request* request);

// 0 <= id < the vocabulary's size, for all; else an error that names `field` and the place.
absl::Status CheckTokenIds(absl::string_view field, const int32_t* ids, int64_t count,
                           const ServedModel& model);

}  // namespace tessera
