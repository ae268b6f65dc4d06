// The table of the commands of `tessera`. main owns the table and runs a command on its thread.
#pragma once

#include <functional>
#include <string>
#include <variant>
#include <vector>

#include "server/cli/arguments.h"

namespace tessera::cli {

class Session;

inline constexpr int kAnyNumber = -1;

// A command returns the exit status. One without a session works without a server and has no flags
// of a connection.
using RunWithSession = std::function<int(const Arguments& arguments, Session* session)>;
using RunAlone = std::function<int(const Arguments& arguments)>;

struct Command {
  const char* name;
  const char* usage;    // the arguments after the name, e.g. "[PROMPT]"
  const char* summary;  // one line
  std::vector<FlagSpec> flags;
  std::variant<RunWithSession, RunAlone> run;
  int max_words = kAnyNumber;  // largest number of words after the name; more are a usage error
};

std::vector<Command> StreamCommands();   // generate, chat
std::vector<Command> UnaryCommands();    // embed, tokenize, detokenize
std::vector<Command> ControlCommands();  // models, load, drain, ...
std::vector<Command> TokenCommands();    // token

// Prints "tessera: message" and returns kUsage.
int UsageError(const absl::Status& status);
int UsageError(const std::string& message);

}  // namespace tessera::cli
