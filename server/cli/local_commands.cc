#include "server/cli/local_commands.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "server/cli/commands.h"

namespace tessera::cli {

const std::vector<LocalCommand>& LocalCommands() {
  static const std::vector<LocalCommand>* const commands = new std::vector<LocalCommand>{
      {"quantize", "quantises a model folder with calibration text; needs no server",
       "tessera-quantize"}};
  return *commands;
}

const LocalCommand* FindLocalCommand(const std::string& name) {
  for (const LocalCommand& command : LocalCommands()) {
    if (name == command.name) return &command;
  }
  return nullptr;
}

int RunLocalCommand(const LocalCommand& command, const std::vector<std::string>& words) {
  std::error_code error;
  const std::filesystem::path own = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::string program = (own.parent_path() / command.program).string();
  std::vector<char*> arguments = {const_cast<char*>(program.c_str())};
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  ::execv(program.c_str(), arguments.data());
  return UsageError(absl::StrCat("cannot run ", program, ": ", std::strerror(errno),
                                 "; install the program beside tessera"));
}

}  // namespace tessera::cli
