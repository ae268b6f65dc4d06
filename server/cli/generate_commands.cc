// generate and chat: streams text to stdout as it arrives, usage and timing to stderr.

#include <cstdio>
#include <iostream>
#include <iterator>
#include <map>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status.h"
#include "server/cli/commands.h"
#include "tessera/v1/inference.grpc.pb.h"

namespace tessera::cli {
namespace {

const std::vector<FlagSpec> kSamplingFlags = {
    {"--model", "NAME", "the model; default: the server's first"},
    {"--max-tokens", "N", "stop after so many tokens"},
    {"--min-tokens", "N", "do not stop before so many tokens"},
    {"--temperature", "T", "0 is greedy"},
    {"--top-k", "N", "sample from the N likeliest tokens"},
    {"--top-p", "P", "sample from the likeliest tokens that make up P"},
    {"--min-p", "P", "drop tokens below P times the likeliest"},
    {"--repetition-penalty", "X", "divides the logits of tokens seen before"},
    {"--presence-penalty", "X", "subtracted from the logits of tokens generated before"},
    {"--frequency-penalty", "X", "the same, times how often"},
    {"--seed", "N", "of the random numbers"},
    {"--n", "N", "so many continuations of one prompt"},
    {"--stop", "TEXT", "stop before this text (repeatable)"},
    {"--ignore-eos", nullptr, "go on after the end of sequence"},
    {"--logprobs", "N", "with --json: log-probabilities of the N likeliest"},
    {"--time-limit-ms", "N", "end with what there is after so long"},
    {"--priority", "low|normal|high", "in the queue"},
    {"--bypass-prefix", nullptr, "neither use nor feed the prefix cache"},
    {"--salt", "TEXT", "share cached prefixes only with this salt"},
    {"--request-id", "ID", "a name to cancel the request by"},
};

template <class Request>
absl::Status FillSampling(const Arguments& arguments, Request* request) {
  std::optional<int64_t> n;
  std::optional<float> x;
  const auto set_int = [&](const char* flag, const auto& set) -> absl::Status {
    n.reset();
    RETURN_IF_ERROR(arguments.Int(flag, &n));
    if (n) set(*n);
    return absl::OkStatus();
  };
  const auto set_float = [&](const char* flag, const auto& set) -> absl::Status {
    x.reset();
    RETURN_IF_ERROR(arguments.Float(flag, &x));
    if (x) set(*x);
    return absl::OkStatus();
  };
  v1::SamplingParams& s = *request->mutable_sampling();
  v1::StoppingParams& stop = *request->mutable_stopping();
  RETURN_IF_ERROR(set_float("--temperature", [&](float v) { s.set_temperature(v); }));
  RETURN_IF_ERROR(set_int("--top-k", [&](int64_t v) { s.set_top_k(static_cast<int32_t>(v)); }));
  RETURN_IF_ERROR(set_float("--top-p", [&](float v) { s.set_top_p(v); }));
  RETURN_IF_ERROR(set_float("--min-p", [&](float v) { s.set_min_p(v); }));
  RETURN_IF_ERROR(set_float("--repetition-penalty", [&](float v) { s.set_repetition_penalty(v); }));
  RETURN_IF_ERROR(set_float("--presence-penalty", [&](float v) { s.set_presence_penalty(v); }));
  RETURN_IF_ERROR(set_float("--frequency-penalty", [&](float v) { s.set_frequency_penalty(v); }));
  RETURN_IF_ERROR(set_int("--seed", [&](int64_t v) { s.set_seed(static_cast<uint64_t>(v)); }));
  RETURN_IF_ERROR(set_int("--n", [&](int64_t v) { s.set_n(static_cast<int32_t>(v)); }));
  RETURN_IF_ERROR(set_int("--max-tokens", [&](int64_t v) { stop.set_max_tokens(v); }));
  RETURN_IF_ERROR(set_int("--min-tokens", [&](int64_t v) { stop.set_min_tokens(v); }));
  RETURN_IF_ERROR(set_int("--time-limit-ms", [&](int64_t v) { stop.set_time_limit_ms(v); }));
  RETURN_IF_ERROR(set_int("--logprobs", [&](int64_t v) {
    request->mutable_output()->set_logprobs(static_cast<int32_t>(v));
  }));
  for (const std::string& text : arguments.All("--stop")) stop.add_stop(text);
  if (arguments.Has("--ignore-eos")) stop.set_ignore_eos(true);
  if (arguments.Has("--bypass-prefix")) request->mutable_cache()->set_bypass_prefix(true);
  if (const auto salt = arguments.Text("--salt")) request->mutable_cache()->set_salt(*salt);
  if (const auto model = arguments.Text("--model")) request->set_model(*model);
  if (const auto id = arguments.Text("--request-id")) request->set_request_id(*id);
  if (const auto priority = arguments.Text("--priority")) {
    static const std::map<std::string, v1::Priority> kPriorities = {
        {"low", v1::PRIORITY_LOW}, {"normal", v1::PRIORITY_NORMAL}, {"high", v1::PRIORITY_HIGH}};
    const auto it = kPriorities.find(*priority);
    if (it == kPriorities.end()) {
      return absl::InvalidArgumentError("--priority is low, normal or high");
    }
    request->set_priority(it->second);
  }
  return absl::OkStatus();
}

std::string ReadAll(std::istream& in) {
  return std::string(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
}

const char* ReasonName(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_STOP:
      return "stop";
    case v1::FINISH_REASON_LENGTH:
      return "length";
    case v1::FINISH_REASON_TIME_LIMIT:
      return "time limit";
    case v1::FINISH_REASON_CANCELLED:
      return "cancelled";
    case v1::FINISH_REASON_QUOTA:
      return "quota";
    default:
      return "error";
  }
}

void PrintSummary(const v1::GenerateResponse& response) {
  const v1::Usage& usage = response.usage();
  const v1::Timing& timing = response.timing();
  const double decode_s = static_cast<double>(timing.decode_us()) * 1e-6;
  std::fprintf(
      stderr,
      "[%s; %lld prompt tokens (%lld cached), %lld generated; queue %.1f ms, first token "
      "%.1f ms",
      ReasonName(response.finished().reason()), static_cast<long long>(usage.prompt_tokens()),
      static_cast<long long>(usage.cached_prompt_tokens()),
      static_cast<long long>(usage.completion_tokens()),
      static_cast<double>(timing.queue_us()) * 1e-3, static_cast<double>(timing.ttft_us()) * 1e-3);
  if (decode_s > 0.0 && usage.completion_tokens() > 1) {
    std::fprintf(stderr, ", %.1f tokens/s",
                 static_cast<double>(usage.completion_tokens() - 1) / decode_s);
  }
  std::fprintf(stderr, "]\n");
  if (response.finished().has_status()) {
    std::fprintf(stderr, "tessera: %s\n", response.finished().status().message().c_str());
  }
}

// Shows a stream. *answer collects the text of index 0.
template <class Reader>
int Show(Reader* reader, Client* client, std::string* answer) {
  std::map<int32_t, std::string> others;  // copies beyond the first are shown when they are whole
  std::vector<v1::GenerateResponse> summaries;
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
    if (client->json()) Client::PrintJson(response);
    if (response.has_output() && response.index() == 0) {
      *answer += response.output().text();
      if (!client->json()) {
        std::fputs(response.output().text().c_str(), stdout);
        std::fflush(stdout);
      }
    } else if (response.has_output()) {
      others[response.index()] += response.output().text();
    } else if (response.has_finished()) {
      summaries.push_back(response);
    }
  }
  const grpc::Status status = reader->Finish();
  if (client->json()) return client->Report(status);
  std::printf("\n");
  for (const auto& [index, text] : others) std::printf("--- %d\n%s\n", index, text.c_str());
  std::fflush(stdout);
  for (const v1::GenerateResponse& summary : summaries) PrintSummary(summary);
  return client->Report(status);
}

int Generate(const Arguments& arguments, Client* client) {
  v1::GenerateRequest request;
  if (const absl::Status status = FillSampling(arguments, &request); !status.ok()) {
    return UsageError(std::string(status.message()));
  }
  const bool from_stdin = arguments.words().empty();
  request.set_text(from_stdin ? ReadAll(std::cin) : absl::StrJoin(arguments.words(), " "));
  if (!client->json() && !from_stdin) {
    std::fputs(request.text().c_str(), stdout);
    std::fflush(stdout);
  }
  auto stub = v1::Inference::NewStub(client->channel());
  auto reader = stub->Generate(client->NewCall(), request);
  std::string answer;
  return Show(reader.get(), client, &answer);
}

int ChatTurn(v1::ChatRequest* request, const std::string& text, Client* client) {
  v1::ChatMessage* message = request->add_messages();
  message->set_role("user");
  message->set_content(text);
  auto stub = v1::Inference::NewStub(client->channel());
  auto reader = stub->Chat(client->NewCall(), *request);
  std::string answer;
  const int exit_status = Show(reader.get(), client, &answer);
  message = request->add_messages();
  message->set_role("assistant");
  message->set_content(answer);
  return exit_status;
}

int Chat(const Arguments& arguments, Client* client) {
  v1::ChatRequest request;
  if (const absl::Status status = FillSampling(arguments, &request); !status.ok()) {
    return UsageError(std::string(status.message()));
  }
  if (const auto system = arguments.Text("--system")) {
    v1::ChatMessage* message = request.add_messages();
    message->set_role("system");
    message->set_content(*system);
  }
  if (!arguments.words().empty()) {
    return ChatTurn(&request, absl::StrJoin(arguments.words(), " "), client);
  }
  std::fprintf(stderr, "one message a line; end with Ctrl-D\n");
  std::string line;
  while (std::getline(std::cin, line)) {
    if (line.empty()) continue;
    const int exit_status = ChatTurn(&request, line, client);
    if (exit_status != kExitOk) return exit_status;
  }
  return kExitOk;
}

}  // namespace

std::vector<Command> GenerateCommands() {
  std::vector<FlagSpec> chat_flags = kSamplingFlags;
  chat_flags.push_back({"--system", "TEXT", "the system message"});
  return {{"generate", "[TEXT...]", "continues a text (from stdin when none is given)",
           kSamplingFlags, Generate},
          {"chat", "[MESSAGE...]", "one answer; a conversation from stdin when no message is given",
           chat_flags, Chat}};
}

}  // namespace tessera::cli
