// tessera: the command-line client. Streams as it arrives; usage and timing go to stderr; Ctrl-C
// cancels the call.

#include <csignal>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/cli/commands.h"
#include "server/version.h"

namespace tessera::cli {

int UsageError(const std::string& message) {
  std::fprintf(stderr, "tessera: %s\n", message.c_str());
  return kExitUsage;
}

namespace {

const std::vector<FlagSpec>& CommonFlags() {
  static const std::vector<FlagSpec>* const kFlags = new std::vector<FlagSpec>{
      {"--server", "HOST:PORT", "default 127.0.0.1:50051"},
      {"--timeout", "SECONDS", "deadline of the call"},
      {"--json", nullptr, "messages as JSON, one a line"},
      {"--help", nullptr, "this"},
  };
  return *kFlags;
}

std::vector<Command> AllCommands() {
  std::vector<Command> commands = GenerateCommands();
  for (Command& command : QueryCommands()) commands.push_back(std::move(command));
  return commands;
}

void PrintFlags(const std::vector<FlagSpec>& flags) {
  for (const FlagSpec& flag : flags) {
    const std::string name =
        flag.value == nullptr ? flag.name : absl::StrCat(flag.name, " ", flag.value);
    std::printf("  %-28s %s\n", name.c_str(), flag.help);
  }
}

int Help() {
  std::printf("tessera %s: talks to a tesserad\n\n  tessera COMMAND [flags]\n\n", kVersion);
  for (const Command& command : AllCommands()) {
    std::printf("  %-10s %s\n", command.name, command.help);
  }
  std::printf("\n");
  PrintFlags(CommonFlags());
  return kExitOk;
}

int CommandHelp(const Command& command) {
  std::printf("tessera %s %s\n  %s\n\n", command.name, command.usage, command.help);
  PrintFlags(command.flags);
  PrintFlags(CommonFlags());
  return kExitOk;
}

int Main(std::vector<std::string> arguments) {
  // Before any thread starts: Client's watcher takes the signal.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigprocmask(SIG_BLOCK, &signals, nullptr);

  if (arguments.empty() || arguments[0] == "--help" || arguments[0] == "-h" ||
      arguments[0] == "help") {
    return Help();
  }
  if (arguments[0] == "--version") {
    std::printf("tessera %s\n", kVersion);
    return kExitOk;
  }
  for (const Command& command : AllCommands()) {
    if (arguments[0] != command.name) continue;
    arguments.erase(arguments.begin());
    std::vector<FlagSpec> known = command.flags;
    known.insert(known.end(), CommonFlags().begin(), CommonFlags().end());
    const auto parsed = Arguments::Parse(arguments, known);
    if (!parsed.ok()) return UsageError(std::string(parsed.status().message()));
    if (parsed->Has("--help")) return CommandHelp(command);
    std::optional<float> timeout;
    if (const auto status = parsed->Float("--timeout", &timeout); !status.ok()) {
      return UsageError(std::string(status.message()));
    }
    Client client(parsed->Text("--server").value_or("127.0.0.1:50051"), timeout,
                  parsed->Has("--json"));
    return command.run(*parsed, &client);
  }
  return UsageError(absl::StrCat("unknown command '", arguments[0], "'; see tessera --help"));
}

}  // namespace
}  // namespace tessera::cli

int main(int argc, char** argv) {
  return tessera::cli::Main(std::vector<std::string>(argv + 1, argv + argc));
}
