// The client's commands. Each knows its flags and runs against a server; the table in commands.cc
// is what main dispatches on.
#pragma once

#include <string>
#include <vector>

#include "server/cli/arguments.h"
#include "server/cli/client.h"

namespace tessera::cli {

struct Command {
  const char* name;
  const char* usage;  // words after the name
  const char* help;
  std::vector<FlagSpec> flags;
  int (*run)(const Arguments& arguments, Client* client);
};

// generate, chat: generate_commands.cc; the others: query_commands.cc.
std::vector<Command> GenerateCommands();
std::vector<Command> QueryCommands();

// Says what is wrong with the command line; the exit status for it.
int UsageError(const std::string& message);

}  // namespace tessera::cli
