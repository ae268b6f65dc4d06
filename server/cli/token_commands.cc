// The command token, which works without a server.
#include <cstdio>

#include "server/cli/commands.h"
#include "server/cli/connection.h"
#include "server/cli/session.h"
#include "server/cli/token.h"

namespace tessera::cli {
namespace {

int NewToken(bool json) {
  const absl::StatusOr<std::string> token = MakeToken();
  if (!token.ok()) {
    UsageError(token.status());
    return kFailed;
  }
  std::printf(
      json ? "{\"token\":\"%s\",\"token_sha256\":\"%s\"}\n" : "token: %s\ntoken_sha256: %s\n",
      token->c_str(), TokenHash(*token).c_str());
  std::fprintf(stderr,
               "[write the token to a file of mode 600, for --token-file; write token_sha256 to "
               "security.identities of tesserad's configuration]\n");
  return kOk;
}

int HashToken(const Arguments& arguments) {
  const absl::StatusOr<std::string> token = ReadToken(arguments);
  if (!token.ok()) return UsageError(token.status());
  if (token->empty()) return UsageError("token hash needs --token-file FILE");
  std::printf(arguments.Has("--json") ? "{\"token_sha256\":\"%s\"}\n" : "token_sha256: %s\n",
              TokenHash(*token).c_str());
  return kOk;
}

int RunToken(const Arguments& arguments) {
  const std::string verb = arguments.positional().empty() ? "" : arguments.positional()[0];
  if (verb == "hash") return HashToken(arguments);
  if (verb != "new") return UsageError("token needs a verb: new or hash");
  if (arguments.Has("--token-file")) return UsageError("--token-file is for token hash");
  return NewToken(arguments.Has("--json"));
}

}  // namespace

std::vector<Command> TokenCommands() {
  return {{"token",
           "new|hash",
           "make a token for --token-file, or print a token's hash; needs no server",
           {TokenFileFlag()},
           RunToken,
           1}};
}

}  // namespace tessera::cli
