// tessera: the command-line client of tesserad. It prints text and tables to stdout, and usage,
// timing and errors to stderr. Exit status: 0 success, 1 the call failed or the server did not
// answer, 2 wrong command line, 130 interrupted by Ctrl-C.

#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/version.h"
#include "server/cli/channel.h"
#include "server/cli/commands.h"
#include "server/cli/session.h"

namespace tessera::cli {

int UsageError(const std::string& message) {
  std::fprintf(stderr, "tessera: %s\n", message.c_str());
  return kUsage;
}

int UsageError(const absl::Status& status) { return UsageError(std::string(status.message())); }

namespace {

std::vector<FlagSpec> GlobalFlags() {
  return {
      ServerFlag(),
      {"--timeout", "SECONDS", "deadline of the call"},
      {"--json", nullptr, "print messages as JSON, one message per line"},
      {"--help", nullptr, "print this help; tessera COMMAND --help prints the help of a command"},
      {"--version", nullptr, "print the version"},
  };
}

std::vector<Command> AllCommands() {
  std::vector<Command> all = StreamCommands();
  for (const std::vector<Command>& more : {UnaryCommands(), ControlCommands()}) {
    all.insert(all.end(), more.begin(), more.end());
  }
  return all;
}

void PrintHelp(const std::vector<Command>& commands) {
  std::printf("tessera talks to tesserad.\n\n  tessera [flags] COMMAND [arguments]\n\n");
  for (const Command& command : commands) {
    std::printf("  %-14s %s\n", command.name, command.summary);
  }
  std::printf("\n%s", FlagHelp(GlobalFlags()).c_str());
}

void PrintCommandHelp(const Command& command) {
  std::printf("tessera %s %s\n\n%s.\n\n%s%s", command.name, command.usage, command.summary,
              FlagHelp(command.flags).c_str(), FlagHelp(GlobalFlags()).c_str());
}

const Command* FindCommand(const std::vector<Command>& commands, const std::string& name) {
  for (const Command& command : commands) {
    if (name == command.name) return &command;
  }
  return nullptr;
}

// Removes the command's name from `words` and returns it. The name is the first word that is
// neither a flag nor the value of a global flag.
std::string TakeCommand(std::vector<std::string>* words) {
  for (size_t i = 0; i < words->size(); ++i) {
    if ((*words)[i] == "--server" || (*words)[i] == "--timeout") {
      ++i;
    } else if ((*words)[i].empty() || (*words)[i][0] != '-') {
      std::string name = (*words)[i];
      words->erase(words->begin() + static_cast<ptrdiff_t>(i));
      return name;
    }
  }
  return "";
}

int Main(std::vector<std::string> words) {
  const std::vector<Command> commands = AllCommands();
  const std::string name = TakeCommand(&words);
  std::vector<FlagSpec> flags = GlobalFlags();
  const Command* command = FindCommand(commands, name);
  if (command != nullptr) flags.insert(flags.end(), command->flags.begin(), command->flags.end());
  if (command == nullptr && !name.empty() && name != "help") {
    return UsageError(absl::StrCat("unknown command '", name, "'; see tessera --help"));
  }
  const absl::StatusOr<Arguments> arguments = Arguments::Parse(words, flags);
  if (!arguments.ok()) return UsageError(arguments.status());
  if (arguments->Has("--version")) {
    std::printf("tessera %s\n", kVersion);
    return kOk;
  }
  if (command == nullptr || arguments->Has("--help")) {
    command == nullptr ? PrintHelp(commands) : PrintCommandHelp(*command);
    return command == nullptr && name.empty() && !arguments->Has("--help") ? kUsage : kOk;
  }
  SessionOptions options;
  options.server = ServerAddress(*arguments);
  options.json = arguments->Has("--json");
  if (const auto timeout = arguments->Text("--timeout");
      timeout && (!absl::SimpleAtod(*timeout, &options.deadline_seconds) ||
                  !(options.deadline_seconds > 0 && options.deadline_seconds < 1e9))) {
    return UsageError(absl::StrCat("--timeout is '", *timeout, "'; give seconds above 0"));
  }
  Session session(options);
  return command->run(*arguments, &session);
}

}  // namespace
}  // namespace tessera::cli

int main(int argc, char** argv) {
  return tessera::cli::Main(std::vector<std::string>(argv + 1, argv + argc));
}
