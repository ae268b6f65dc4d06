#include "server/cli/request_flags.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "tessera/v1/inference.pb.h"

namespace tessera::cli {
namespace {

template <class T, class Setter>
absl::Status Set(const Arguments& arguments, const char* flag, const Setter& set) {
  std::optional<T> value;
  RETURN_IF_ERROR(arguments.Read(flag, &value));
  if (value) set(*value);
  return absl::OkStatus();
}

absl::Status ApplySampling(const Arguments& arguments, v1::SamplingParams* sampling) {
  auto* s = sampling;
  RETURN_IF_ERROR(Set<float>(arguments, "--temperature", [&](float v) { s->set_temperature(v); }));
  RETURN_IF_ERROR(Set<int32_t>(arguments, "--top-k", [&](int32_t v) { s->set_top_k(v); }));
  RETURN_IF_ERROR(Set<float>(arguments, "--top-p", [&](float v) { s->set_top_p(v); }));
  RETURN_IF_ERROR(Set<float>(arguments, "--min-p", [&](float v) { s->set_min_p(v); }));
  RETURN_IF_ERROR(Set<uint64_t>(arguments, "--seed", [&](uint64_t v) { s->set_seed(v); }));
  RETURN_IF_ERROR(Set<float>(arguments, "--repetition-penalty",
                             [&](float v) { s->set_repetition_penalty(v); }));
  RETURN_IF_ERROR(
      Set<float>(arguments, "--presence-penalty", [&](float v) { s->set_presence_penalty(v); }));
  RETURN_IF_ERROR(
      Set<float>(arguments, "--frequency-penalty", [&](float v) { s->set_frequency_penalty(v); }));
  RETURN_IF_ERROR(Set<int32_t>(arguments, "--n", [&](int32_t v) { s->set_n(v); }));
  for (const std::string& text : arguments.All("--logit-bias")) {
    const size_t equals = text.find('=');
    int32_t id = 0;
    float bias = 0;
    if (equals == std::string::npos || !absl::SimpleAtoi(text.substr(0, equals), &id) ||
        !absl::SimpleAtof(text.substr(equals + 1), &bias)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--logit-bias is '", text, "'; give ID=NUMBER"));
    }
    (*s->mutable_logit_bias())[id] = bias;
  }
  return absl::OkStatus();
}

absl::Status ApplyStopping(const Arguments& arguments, v1::StoppingParams* stopping) {
  auto* s = stopping;
  RETURN_IF_ERROR(
      Set<int64_t>(arguments, "--max-tokens", [&](int64_t v) { s->set_max_tokens(v); }));
  RETURN_IF_ERROR(
      Set<int64_t>(arguments, "--min-tokens", [&](int64_t v) { s->set_min_tokens(v); }));
  RETURN_IF_ERROR(
      Set<int64_t>(arguments, "--time-limit-ms", [&](int64_t v) { s->set_time_limit_ms(v); }));
  for (const std::string& stop : arguments.All("--stop")) s->add_stop(stop);
  for (const std::string& text : arguments.All("--stop-ids")) {
    ASSIGN_OR_RETURN(const std::vector<int32_t> ids, ParseIds(text));
    for (const int32_t id : ids) s->add_stop_token_ids(id);
  }
  if (arguments.Has("--ignore-eos")) s->set_ignore_eos(true);
  if (arguments.Has("--include-stop")) s->set_include_stop(true);
  return absl::OkStatus();
}

template <class Request>
absl::Status Apply(const Arguments& arguments, Request* request) {
  if (const auto model = arguments.Text("--model")) request->set_model(*model);
  for (const std::string& text : arguments.All("--adapter")) {
    const size_t equals = text.find('=');
    v1::AdapterRef* const ref = request->add_adapters();
    ref->set_name(text.substr(0, equals));
    if (equals == std::string::npos) continue;
    float weight = 0;
    if (!absl::SimpleAtof(text.substr(equals + 1), &weight)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--adapter is '", text, "'; give NAME or NAME=WEIGHT"));
    }
    ref->set_weight(weight);
  }
  RETURN_IF_ERROR(
      Set<uint32_t>(arguments, "--blend-rank", [&](uint32_t v) { request->set_blend_rank(v); }));
  if (const auto id = arguments.Text("--request-id")) request->set_request_id(*id);
  RETURN_IF_ERROR(ApplySampling(arguments, request->mutable_sampling()));
  RETURN_IF_ERROR(ApplyStopping(arguments, request->mutable_stopping()));
  RETURN_IF_ERROR(Set<int32_t>(arguments, "--logprobs",
                               [&](int32_t v) { request->mutable_output()->set_logprobs(v); }));
  RETURN_IF_ERROR(Set<int32_t>(arguments, "--prompt-logprobs", [&](int32_t v) {
    request->mutable_output()->set_prompt_logprobs(v);
  }));
  if (arguments.Has("--bypass-prefix")) request->mutable_cache()->set_bypass_prefix(true);
  if (const auto salt = arguments.Text("--salt")) request->mutable_cache()->set_salt(*salt);
  if (const auto priority = arguments.Text("--priority")) {
    if (*priority != "low" && *priority != "normal" && *priority != "high") {
      return absl::InvalidArgumentError(
          absl::StrCat("--priority is '", *priority, "'; give low, normal or high"));
    }
    request->set_priority(*priority == "low"    ? v1::PRIORITY_LOW
                          : *priority == "high" ? v1::PRIORITY_HIGH
                                                : v1::PRIORITY_NORMAL);
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<FlagSpec> RequestFlags() {
  return {
      {"--model", "NAME", "served model (the default model)"},
      {"--adapter", "NAME[=WEIGHT]", "LoRA adapter; repeat for a weighted blend"},
      {"--blend-rank", "R", "re-compress the blend to rank R (an exact blend)"},
      {"--max-tokens", "N", "largest number of tokens to generate"},
      {"--min-tokens", "N", "smallest number of tokens to generate"},
      {"--temperature", "T", "0 is greedy"},
      {"--top-k", "K", "only the K likeliest tokens"},
      {"--top-p", "P", "only the likeliest tokens whose probabilities reach P"},
      {"--min-p", "P", "only tokens with at least P times the probability of the likeliest"},
      {"--seed", "N", "seed of the random numbers"},
      {"--repetition-penalty", "R", "1 is off"},
      {"--presence-penalty", "P", "0 is off"},
      {"--frequency-penalty", "P", "0 is off"},
      {"--logit-bias", "ID=NUMBER", "number to add to a token's logit; repeat for more"},
      {"--n", "N", "number of continuations of the prompt"},
      {"--stop", "TEXT", "text that ends generation; repeat for more"},
      {"--stop-ids", "IDS", "token ids that end generation, e.g. 1,2"},
      {"--ignore-eos", nullptr, "continue after end-of-sequence tokens"},
      {"--include-stop", nullptr, "keep the stop text in the output"},
      {"--time-limit-ms", "N", "end generation N ms after arrival and keep the text so far"},
      {"--logprobs", "N", "log-probabilities of the token and the N likeliest (see --json)"},
      {"--prompt-logprobs", "N", "log-probabilities of each prompt token and the N likeliest"},
      {"--bypass-prefix", nullptr, "neither use nor fill the prefix cache"},
      {"--salt", "TEXT", "share cached prefixes only with requests of the same salt"},
      {"--priority", "low|normal|high", "place in the queue"},
      {"--request-id", "ID", "name of the call, for `tessera cancel`"},
      {"--quiet", nullptr, "print no usage and timing to stderr"},
  };
}

absl::Status ApplyRequestFlags(const Arguments& arguments, v1::GenerateRequest* request) {
  return Apply(arguments, request);
}

absl::Status ApplyRequestFlags(const Arguments& arguments, v1::ChatRequest* request) {
  return Apply(arguments, request);
}

}  // namespace tessera::cli
