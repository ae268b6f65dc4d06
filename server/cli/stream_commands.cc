// The commands generate and chat.
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status.h"
#include "server/cli/commands.h"
#include "server/cli/request_flags.h"
#include "server/cli/session.h"

namespace tessera::cli {
namespace {

const char* ReasonText(v1::FinishReason reason) {
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

// The rate of the tokens after the first token; empty if there are none.
std::string RateText(int64_t num_tokens, int64_t decode_us) {
  if (num_tokens < 2 || decode_us <= 0) return "";
  const double rate = static_cast<double>(num_tokens - 1) / (static_cast<double>(decode_us) / 1e6);
  return absl::StrFormat(", %.1f tokens/s", rate);
}

// Prints the text of a stream as it arrives. With n > 1 several texts arrive interleaved, so each
// text is printed only when it is finished.
class StreamPrinter final {
 public:
  StreamPrinter(bool json, bool quiet, bool several)
      : json_(json), quiet_(quiet), several_(several) {}

  void Print(const v1::GenerateResponse& message) {
    if (json_) return Session::PrintJson(message);
    if (message.has_output()) OnText(message.index(), message.output().text());
    if (message.has_finished()) OnFinished(message);
  }

  const std::string& text() const { return whole_; }
  bool failed() const { return failed_; }

 private:
  void OnText(int index, const std::string& text) {
    if (several_) {
      held_[index] += text;
      return;
    }
    whole_ += text;
    std::fputs(text.c_str(), stdout);
  }

  void OnFinished(const v1::GenerateResponse& message) {
    if (several_) std::printf("--- %d ---\n%s", message.index(), held_[message.index()].c_str());
    std::fputs("\n", stdout);
    // The text comes before the figures, also when both streams go to one file. Main reports an
    // output that cannot be written.
    std::fflush(stdout);
    if (message.finished().reason() == v1::FINISH_REASON_ERROR) {
      failed_ = true;
      std::fprintf(stderr, "tessera: %s\n", message.finished().status().message().c_str());
    }
    if (quiet_) return;
    const v1::Usage& usage = message.usage();
    const v1::Timing& timing = message.timing();
    std::fprintf(
        stderr,
        "[%lld prompt tokens (%lld cached), %lld generated, %s; queue %.1f ms, first token "
        "%.1f ms%s]\n",
        static_cast<long long>(usage.prompt_tokens()),
        static_cast<long long>(usage.cached_prompt_tokens()),
        static_cast<long long>(usage.completion_tokens()), ReasonText(message.finished().reason()),
        static_cast<double>(timing.queue_us()) / 1e3, static_cast<double>(timing.ttft_us()) / 1e3,
        RateText(usage.completion_tokens(), timing.decode_us()).c_str());
  }

  const bool json_;
  const bool quiet_;
  const bool several_;
  std::map<int, std::string> held_;
  std::string whole_;
  bool failed_ = false;
};

template <class Reader>
int PrintStream(Session* session, StreamPrinter* printer, Reader reader) {
  v1::GenerateResponse message;
  while (reader->Read(&message)) {
    printer->Print(message);
    session->FlushOrCancel();
  }
  const grpc::Status status = reader->Finish();
  session->EndContext();
  if (session->output_failed()) return kFailed;
  if (!status.ok()) {
    if (!session->json() && !printer->text().empty()) std::fputs("\n", stdout);
    std::fflush(stdout);
    return session->Fail(status);
  }
  return printer->failed() ? kFailed : kOk;
}

StreamPrinter NewPrinter(const Arguments& arguments, const Session& session, int n) {
  return StreamPrinter(session.json(), arguments.Has("--quiet"), n > 1);
}

// The prompt text: the positional words of the command line (a single "-" is standard input), else
// the content of --prompt-file, else standard input.
absl::StatusOr<std::string> TextArgument(const Arguments& arguments) {
  const std::vector<std::string>& words = arguments.positional();
  const auto file = arguments.Text("--prompt-file");
  if (!words.empty() && file) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", words[0], "' is given beside --prompt-file; give one of them"));
  }
  if (file) return ReadText(*file);
  if (!words.empty() && words != std::vector<std::string>{"-"}) return absl::StrJoin(words, " ");
  if (words.empty() && isatty(STDIN_FILENO)) {
    return absl::InvalidArgumentError("there is no text; give it as an argument or on stdin");
  }
  return ReadText("-");
}

// Flags that would have no effect are errors.
absl::Status CheckFlags(const Arguments& arguments, const Session& session) {
  for (const char* flag : {"--logprobs", "--prompt-logprobs"}) {
    if (arguments.Has(flag) && !session.json()) {
      return absl::InvalidArgumentError(absl::StrCat(flag, " is printed with --json only; add it"));
    }
  }
  const bool has_ids = arguments.Has("--token-ids");
  if (has_ids && (!arguments.positional().empty() || arguments.Has("--prompt-file"))) {
    return absl::InvalidArgumentError("a text is given beside --token-ids; give one of them");
  }
  if (arguments.Has("--echo") && (has_ids || session.json())) {
    return absl::InvalidArgumentError(absl::StrCat("--echo prints no prompt with ",
                                                   has_ids ? "--token-ids" : "--json",
                                                   "; leave one of them out"));
  }
  return absl::OkStatus();
}

int RunGenerate(const Arguments& arguments, Session* session) {
  v1::GenerateRequest request;
  if (const absl::Status status = CheckFlags(arguments, *session); !status.ok()) {
    return UsageError(status);
  }
  if (const absl::Status status = ApplyRequestFlags(arguments, &request); !status.ok()) {
    return UsageError(status);
  }
  if (const auto text = arguments.Text("--token-ids")) {
    const absl::StatusOr<std::vector<int32_t>> ids = ParseIds(*text);
    if (!ids.ok()) return UsageError(ids.status());
    request.mutable_token_ids()->mutable_ids()->Assign(ids->begin(), ids->end());
  } else {
    absl::StatusOr<std::string> prompt = TextArgument(arguments);
    if (!prompt.ok()) return UsageError(prompt.status());
    request.set_text(*std::move(prompt));
    if (arguments.Has("--echo") && !session->json()) std::fputs(request.text().c_str(), stdout);
  }
  const auto context = session->NewContext();
  StreamPrinter printer = NewPrinter(arguments, *session, request.sampling().n());
  return PrintStream(session, &printer, session->inference().Generate(context.get(), request));
}

void AddMessage(const std::string& role, const std::string& content, v1::ChatRequest* request) {
  v1::ChatMessage* message = request->add_messages();
  message->set_role(role);
  message->set_content(content);
}

absl::Status FillChat(const Arguments& arguments, v1::ChatRequest* request) {
  RETURN_IF_ERROR(ApplyRequestFlags(arguments, request));
  if (const auto system = arguments.Text("--system")) AddMessage("system", *system, request);
  for (const std::string& text : arguments.All("--message")) {
    const size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0) {
      return absl::InvalidArgumentError(absl::StrCat("--message is '", text, "'; give ROLE=TEXT"));
    }
    AddMessage(text.substr(0, equals), text.substr(equals + 1), request);
  }
  if (const auto file = arguments.Text("--tools-file")) {
    ASSIGN_OR_RETURN(std::string tools, ReadFile(*file));
    request->set_tools_json(std::move(tools));
  }
  if (const auto args = arguments.Text("--template-args")) request->set_template_args_json(*args);
  if (arguments.Has("--no-generation-prompt")) request->set_add_generation_prompt(false);
  return absl::OkStatus();
}

int SendChat(const Arguments& arguments, Session* session, v1::ChatRequest* request,
             std::string* answer) {
  const auto context = session->NewContext();
  StreamPrinter printer = NewPrinter(arguments, *session, request->sampling().n());
  const int status =
      PrintStream(session, &printer, session->inference().Chat(context.get(), *request));
  *answer = printer.text();
  return status;
}

// Runs a conversation at a terminal. Each line is a message; blank lines are skipped, and Ctrl-D
// ends the conversation.
int Converse(const Arguments& arguments, Session* session, v1::ChatRequest* request) {
  std::fputs("Ctrl-D ends the conversation, Ctrl-C an answer.\n", stderr);
  std::string line;
  for (;;) {
    std::fputs("> ", stderr);
    if (!std::getline(std::cin, line)) {
      std::fputs("\n", stderr);
      return kOk;
    }
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    AddMessage("user", line, request);
    std::string answer;
    const int status = SendChat(arguments, session, request, &answer);
    if (status != kOk && status != kInterrupted) return status;
    AddMessage("assistant", answer, request);
  }
}

int RunChat(const Arguments& arguments, Session* session) {
  v1::ChatRequest request;
  if (const absl::Status status = CheckFlags(arguments, *session); !status.ok()) {
    return UsageError(status);
  }
  if (const absl::Status status = FillChat(arguments, &request); !status.ok()) {
    return UsageError(status);
  }
  const bool has_text = !arguments.positional().empty() || arguments.Has("--prompt-file");
  if (!has_text && !arguments.Has("--message") && isatty(STDIN_FILENO) && !session->json()) {
    return Converse(arguments, session, &request);
  }
  if (has_text || !arguments.Has("--message")) {
    const absl::StatusOr<std::string> text = TextArgument(arguments);
    if (!text.ok()) return UsageError(text.status());
    AddMessage("user", *text, &request);
  }
  std::string ignored;
  return SendChat(arguments, session, &request, &ignored);
}

}  // namespace

std::vector<Command> StreamCommands() {
  std::vector<FlagSpec> generate = {
      {"--prompt-file", "FILE", "read the prompt from a file (-: standard input)"},
      {"--token-ids", "IDS", "the prompt as token ids, e.g. 1,15043"},
      {"--echo", nullptr, "print the prompt before its continuation"},
  };
  std::vector<FlagSpec> chat = {
      {"--system", "TEXT", "a system message before all others"},
      {"--message", "ROLE=TEXT", "a message; repeat for a conversation"},
      {"--prompt-file", "FILE", "read the user's message from a file (-: standard input)"},
      {"--tools-file", "FILE", "a JSON array of tools"},
      {"--template-args", "JSON", "variables of the template, e.g. {\"enable_thinking\": false}"},
      {"--no-generation-prompt", nullptr, "do not open the assistant's turn"},
  };
  const std::vector<FlagSpec> shared = RequestFlags();
  generate.insert(generate.end(), shared.begin(), shared.end());
  chat.insert(chat.end(), shared.begin(), shared.end());
  return {
      {"generate", "[PROMPT]", "continue a text", generate, RunGenerate},
      {"chat", "[MESSAGE]", "ask the model; without a message, a conversation", chat, RunChat},
  };
}

}  // namespace tessera::cli
