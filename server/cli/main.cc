// tessera: the command-line client of tesserad. It prints text and tables to stdout, and usage,
// timing and errors to stderr. Exit status: 0 success, 1 the call failed or the server did not
// answer, 2 wrong command line, 130 interrupted by Ctrl-C.

#include <google/protobuf/stubs/logging.h>

#include <cstdio>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/nearest_word.h"
#include "kernels/base/version.h"
#include "server/cli/channel.h"
#include "server/cli/commands.h"
#include "server/cli/connection.h"
#include "server/cli/local_commands.h"
#include "server/cli/output.h"
#include "server/cli/session.h"

namespace tessera::cli {

int UsageError(const std::string& message) {
  std::fprintf(stderr, "tessera: %s\n", message.c_str());
  return kUsage;
}

int UsageError(const absl::Status& status) { return UsageError(std::string(status.message())); }

namespace {

void Append(std::vector<FlagSpec>* flags, const std::vector<FlagSpec>& more) {
  flags->insert(flags->end(), more.begin(), more.end());
}

// The flags of all commands.
std::vector<FlagSpec> CommonFlags() {
  return {
      {"--json", nullptr, "print messages as JSON, one message per line"},
      {"--help", nullptr, "print this help; tessera COMMAND --help prints the help of a command"},
      {"--version", nullptr, "print the version"},
  };
}

// The flags of all commands that talk to a server.
std::vector<FlagSpec> GlobalFlags() {
  std::vector<FlagSpec> flags = ConnectionFlags();
  flags.push_back({"--timeout", "SECONDS", "deadline of the call"});
  Append(&flags, CommonFlags());
  return flags;
}

// The flags that are not the command's own.
std::vector<FlagSpec> SharedFlags(const Command& command) {
  return std::holds_alternative<RunAlone>(command.run) ? CommonFlags() : GlobalFlags();
}

std::vector<Command> AllCommands() {
  std::vector<Command> all = StreamCommands();
  for (const std::vector<Command>& more : {UnaryCommands(), ControlCommands(), TokenCommands()}) {
    all.insert(all.end(), more.begin(), more.end());
  }
  return all;
}

void PrintHelp(const std::vector<Command>& commands) {
  std::printf("tessera talks to tesserad.\n\n  tessera [flags] COMMAND [arguments]\n\n");
  for (const Command& command : commands) {
    std::printf("  %-14s %s\n", command.name, command.summary);
  }
  for (const LocalCommand& command : LocalCommands()) {
    std::printf("  %-14s %s\n", command.name, command.summary);
  }
  std::printf("\n%s", FlagHelp(GlobalFlags()).c_str());
}

void PrintCommandHelp(const Command& command) {
  std::printf("tessera %s %s\n\n%s.\n\n%s%s", command.name, command.usage, command.summary,
              FlagHelp(command.flags).c_str(), FlagHelp(SharedFlags(command)).c_str());
}

const Command* FindCommand(const std::vector<Command>& commands, const std::string& name) {
  for (const Command& command : commands) {
    if (name == command.name) return &command;
  }
  return nullptr;
}

int UnknownCommand(const std::string& name, const std::vector<Command>& commands) {
  std::vector<std::string> known = {"help", "version"};
  for (const Command& command : commands) known.emplace_back(command.name);
  for (const LocalCommand& command : LocalCommands()) known.emplace_back(command.name);
  const std::string nearest = NearestWord(name, known);
  return UsageError(absl::StrCat(
      "unknown command '", name, "'; ",
      nearest.empty() ? "see tessera --help" : absl::StrCat("the nearest command is ", nearest)));
}

// Prints the help of the command that `words` name, or of all commands.
int Help(const std::vector<std::string>& words, const std::vector<Command>& commands) {
  if (words.size() > 1) return UsageError("help takes one COMMAND");
  if (words.empty()) {
    PrintHelp(commands);
    return kOk;
  }
  if (const LocalCommand* const local = FindLocalCommand(words[0])) {
    return RunLocalCommand(*local, {"--help"});
  }
  const Command* const command = FindCommand(commands, words[0]);
  if (command == nullptr) return UnknownCommand(words[0], commands);
  PrintCommandHelp(*command);
  return kOk;
}

int RunCommand(const Command& command, const Arguments& arguments) {
  const auto num_words = static_cast<int>(arguments.positional().size());
  if (command.max_words != kAnyNumber && num_words > command.max_words) {
    return UsageError(absl::StrCat("'", arguments.positional().back(),
                                   "' is one word too many: tessera ", command.name, " ",
                                   command.usage));
  }
  if (const auto* const run = std::get_if<RunAlone>(&command.run)) return (*run)(arguments);
  absl::StatusOr<ConnectionOptions> connection = ReadConnection(arguments);
  if (!connection.ok()) return UsageError(connection.status());
  SessionOptions options;
  options.connection = *std::move(connection);
  options.json = arguments.Has("--json");
  if (const auto timeout = arguments.Text("--timeout");
      timeout && (!absl::SimpleAtod(*timeout, &options.deadline_seconds) ||
                  !(options.deadline_seconds > 0 && options.deadline_seconds < 1e9))) {
    return UsageError(absl::StrCat("--timeout is '", *timeout, "'; give seconds above 0"));
  }
  Session session(std::move(options));
  return std::get<RunWithSession>(command.run)(arguments, &session);
}

int Dispatch(std::vector<std::string> words) {
  const std::vector<Command> commands = AllCommands();
  const std::string name = TakeCommand(GlobalFlags(), &words);
  if (const LocalCommand* const local = FindLocalCommand(name)) {
    return RunLocalCommand(*local, words);
  }
  const bool is_builtin = name.empty() || name == "help" || name == "version";
  const Command* const command = FindCommand(commands, name);
  if (command == nullptr && !is_builtin) return UnknownCommand(name, commands);
  std::vector<FlagSpec> flags = command == nullptr ? GlobalFlags() : SharedFlags(*command);
  if (command != nullptr) Append(&flags, command->flags);
  const absl::StatusOr<Arguments> arguments = Arguments::Parse(words, flags);
  if (!arguments.ok()) return UsageError(arguments.status());
  if (arguments->Has("--version") || name == "version") {
    std::printf("tessera %s\n", kVersion);
    return kOk;
  }
  if (name == "help") return Help(arguments->positional(), commands);
  if (command == nullptr) {
    PrintHelp(commands);
    return arguments->Has("--help") ? kOk : kUsage;
  }
  if (arguments->Has("--help")) {
    PrintCommandHelp(*command);
    return kOk;
  }
  return RunCommand(*command, *arguments);
}

int Main(std::vector<std::string> words) {
  // Protobuf would log texts that are not UTF-8 to stderr; the server refuses them with a message.
  google::protobuf::SetLogHandler(nullptr);
  MuteTransportLog();
  const int status = Dispatch(std::move(words));
  const absl::Status written = FlushOutput();
  if (written.ok() || status != kOk) return status;
  std::fprintf(stderr, "tessera: %s\n", std::string(written.message()).c_str());
  return kFailed;
}

}  // namespace
}  // namespace tessera::cli

int main(int argc, char** argv) {
  return tessera::cli::Main(std::vector<std::string>(argv + 1, argv + argc));
}
