// The commands of `tessera` that are programs of their own beside `tessera`. The program replaces
// this process, so that the client does not link what it needs.
#pragma once

#include <string>
#include <vector>

namespace tessera::cli {

struct LocalCommand {
  const char* name;
  const char* summary;  // one line
  const char* program;  // in the folder of `tessera`
};

const std::vector<LocalCommand>& LocalCommands();

// The command, or null if no local command has this name.
const LocalCommand* FindLocalCommand(const std::string& name);

// Replaces the process by the command's program, with `words` as its arguments. Returns only if
// that fails: prints an error and returns the exit status.
int RunLocalCommand(const LocalCommand& command, const std::vector<std::string>& words);

}  // namespace tessera::cli
