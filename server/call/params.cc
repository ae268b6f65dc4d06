#include "server/call/params.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <random>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "server/call/errors.h"
#include "server/call/limits.h"
#include "server/call/served_model.h"
#include "server/text/tokenizer/tokenizer.h"
#include "tessera/v1/inference.pb.h"

namespace tessera {
namespace {

enum class LowerBound { kClosed, kOpen };

absl::Status CheckReal(absl::string_view field, float value, float low, float high,
                       LowerBound bound = LowerBound::kClosed) {
  const bool above = bound == LowerBound::kOpen ? value > low : value >= low;
  if (above && value <= high) return absl::OkStatus();  // false for NaN
  return FieldError(
      field, absl::StrCat("is ", value, "; give a number ",
                          bound == LowerBound::kOpen ? "above " : "from ", low, " to ", high));
}

absl::Status CheckWhole(absl::string_view field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return FieldError(field,
                    absl::StrCat("is ", value, "; give a whole number from ", low, " to ", high));
}

absl::Status CheckAtLeast(absl::string_view field, int64_t value, int64_t low) {
  if (value >= low) return absl::OkStatus();
  return FieldError(field, absl::StrCat("is ", value, "; give a whole number of at least ", low));
}

absl::Status CheckCount(absl::string_view field, int64_t count, int64_t limit) {
  if (count <= limit) return absl::OkStatus();
  return FieldError(field, absl::StrCat("has ", count, " entries; give at most ", limit));
}

uint64_t DrawSeed() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

// Makes stop ids of the stop strings that are special tokens. An id that the client also gave as a
// stop id is not listed in stops->special, so that it is reported as an id.
void AddSpecialStops(const Tokenizer& tokenizer, StoppingParams* stopping, TextStops* stops) {
  for (const std::string& stop : stops->strings) {
    const std::optional<TokenId> id = tokenizer.TokenToId(stop);
    if (!id.has_value() || !tokenizer.IsSpecial(*id)) continue;
    const std::vector<TokenId>& ids = stopping->stop_ids;
    if (std::find(ids.begin(), ids.end(), *id) != ids.end()) continue;
    stopping->stop_ids.push_back(*id);
    stops->special.emplace_back(*id, stop);
  }
}

}  // namespace

absl::Status CheckTokenIds(absl::string_view field, const int32_t* ids, int64_t count,
                           const ServedModel& model) {
  for (int64_t i = 0; i < count; ++i) {
    if (ids[i] >= 0 && ids[i] < model.vocab_size) continue;
    return FieldError(field,
                      absl::StrCat("has the id ", ids[i], " at place ", i, "; model '", model.name,
                                   "' knows ids from 0 to ", model.vocab_size - 1));
  }
  return absl::OkStatus();
}

absl::Status ValidateSampling(absl::string_view prefix, SamplingParams* sampling) {
  const auto name = [prefix](const char* field) { return absl::StrCat(prefix, field); };
  const SamplingParams& s = *sampling;
  RETURN_IF_ERROR(CheckReal(name("temperature"), s.temperature, 0, 100));
  RETURN_IF_ERROR(CheckAtLeast(name("top_k"), s.top_k, -1));
  RETURN_IF_ERROR(CheckReal(name("top_p"), s.top_p, 0, 1, LowerBound::kOpen));
  RETURN_IF_ERROR(CheckReal(name("min_p"), s.min_p, 0, 1));
  RETURN_IF_ERROR(
      CheckReal(name("repetition_penalty"), s.repetition_penalty, 0, 100, LowerBound::kOpen));
  RETURN_IF_ERROR(CheckReal(name("presence_penalty"), s.presence_penalty, -2, 2));
  RETURN_IF_ERROR(CheckReal(name("frequency_penalty"), s.frequency_penalty, -2, 2));
  RETURN_IF_ERROR(CheckWhole(name("n"), s.n, 1, kMaxN));
  sampling->top_k = std::max(sampling->top_k, 0);
  return absl::OkStatus();
}

absl::Status ReadSampling(const v1::SamplingParams& wire, const ServedModel& model,
                          SamplingParams* sampling) {
  *sampling = model.defaults;
  SamplingParams& out = *sampling;
  if (wire.has_temperature()) out.temperature = wire.temperature();
  if (wire.has_top_k()) out.top_k = wire.top_k();
  if (wire.has_top_p()) out.top_p = wire.top_p();
  if (wire.has_min_p()) out.min_p = wire.min_p();
  if (wire.has_repetition_penalty()) out.repetition_penalty = wire.repetition_penalty();
  if (wire.has_presence_penalty()) out.presence_penalty = wire.presence_penalty();
  if (wire.has_frequency_penalty()) out.frequency_penalty = wire.frequency_penalty();
  out.n = wire.has_n() ? wire.n() : 1;
  out.seed = wire.has_seed() ? wire.seed() : DrawSeed();
  RETURN_IF_ERROR(ValidateSampling("sampling.", &out));
  RETURN_IF_ERROR(CheckCount("sampling.logit_bias", wire.logit_bias_size(), kMaxLogitBias));
  for (const auto& [id, bias] : wire.logit_bias()) {
    RETURN_IF_ERROR(CheckTokenIds("sampling.logit_bias", &id, 1, model));
    RETURN_IF_ERROR(
        CheckReal("sampling.logit_bias", bias, -kMaxLogitBiasValue, kMaxLogitBiasValue));
    out.logit_bias.push_back({id, bias});
  }
  // Sorted by token, because the iteration order of a protobuf map is not defined.
  std::sort(out.logit_bias.begin(), out.logit_bias.end(),
            [](const TokenBias& a, const TokenBias& b) { return a.token < b.token; });
  return absl::OkStatus();
}

absl::Status ReadStopping(const v1::StoppingParams& wire, const ServedModel& model,
                          int64_t prompt_tokens, StoppingParams* stopping, TextStops* stops) {
  *stops = {};
  const int64_t room = model.max_model_len - prompt_tokens;
  if (wire.has_max_tokens()) {
    RETURN_IF_ERROR(CheckAtLeast("stopping.max_tokens", wire.max_tokens(), 1));
  }
  stopping->max_tokens = wire.has_max_tokens() ? std::min(wire.max_tokens(), room) : room;
  RETURN_IF_ERROR(CheckAtLeast("stopping.min_tokens", wire.min_tokens(), 0));
  if (wire.has_max_tokens() && wire.min_tokens() > wire.max_tokens()) {
    return FieldError("stopping.min_tokens",
                      absl::StrCat("is ", wire.min_tokens(), ", more than max_tokens (",
                                   wire.max_tokens(), "); lower it or raise max_tokens"));
  }
  stopping->min_tokens = std::min(wire.min_tokens(), stopping->max_tokens);
  stopping->ignore_eos = wire.ignore_eos();
  stopping->eos_ids = model.eos_ids;
  RETURN_IF_ERROR(
      CheckCount("stopping.stop_token_ids", wire.stop_token_ids_size(), kMaxStopTokenIds));
  RETURN_IF_ERROR(CheckTokenIds("stopping.stop_token_ids", wire.stop_token_ids().data(),
                                wire.stop_token_ids_size(), model));
  stopping->stop_ids.assign(wire.stop_token_ids().begin(), wire.stop_token_ids().end());
  if (wire.has_time_limit_ms()) {
    RETURN_IF_ERROR(CheckWhole("stopping.time_limit_ms", wire.time_limit_ms(), 1, kMaxTimeLimitMs));
    stopping->time_limit_us = wire.time_limit_ms() * 1000;
  }
  RETURN_IF_ERROR(CheckCount("stopping.stop", wire.stop_size(), kMaxStopStrings));
  for (const std::string& stop : wire.stop()) {
    if (stop.empty() || stop.size() > static_cast<size_t>(kMaxStopStringBytes)) {
      return FieldError("stopping.stop",
                        absl::StrCat("has a string of ", stop.size(),
                                     " bytes; give strings of 1 to ", kMaxStopStringBytes));
    }
    stops->strings.push_back(stop);
  }
  stops->include_stop = wire.include_stop();
  stops->min_tokens = stopping->min_tokens;
  AddSpecialStops(*model.tokenizer, stopping, stops);
  return absl::OkStatus();
}

absl::Status ReadOutputOptions(const v1::OutputOptions& wire, int64_t prompt_tokens,
                               Request* request) {
  if (wire.has_logprobs()) {
    RETURN_IF_ERROR(CheckWhole("output.logprobs", wire.logprobs(), 0, kMaxLogprobs));
    request->logprobs = wire.logprobs();
  }
  if (!wire.has_prompt_logprobs()) return absl::OkStatus();
  RETURN_IF_ERROR(CheckWhole("output.prompt_logprobs", wire.prompt_logprobs(), 0, kMaxLogprobs));
  if (prompt_tokens * (1 + wire.prompt_logprobs()) > kMaxPromptScores) {
    return FieldError(
        "output.prompt_logprobs",
        absl::StrCat("is ", wire.prompt_logprobs(), " for ", prompt_tokens,
                     " prompt tokens; give at most ", kMaxPromptScores / prompt_tokens - 1));
  }
  request->prompt_logprobs = wire.prompt_logprobs();
  return absl::OkStatus();
}

}  // namespace tessera
