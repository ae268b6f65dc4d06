// The table of the commands of `tessera`. main owns the table and runs a command on its thread.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "server/cli/arguments.h"

namespace tessera::cli {

class Session;

inline constexpr int kAnyNumber = -1;

struct Command {
  const char* name;
  const char* usage;    // the arguments after the name, e.g. "[PROMPT]"
  const char* summary;  // one line
  std::vector<FlagSpec> flags;
  // Returns the exit status.
  std::function<int(const Arguments& arguments, Session* session)> run;
  int max_words = kAnyNumber;  // largest number of words after the name; more are a usage error
};

std::vector<Command> StreamCommands();   // generate, chat
std::vector<Command> UnaryCommands();    // embed, tokenize, detokenize
std::vector<Command> ControlCommands();  // models, load, drain, ...

// Prints "tessera: message" and returns kUsage.
int UsageError(const absl::Status& status);
int UsageError(const std::string& message);

}  // namespace tessera::cli
