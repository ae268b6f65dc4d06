// What the client programs must know to connect to a server and to be known there: the address, the
// token and the TLS files. One table of flags and one function read it for all programs. Any
// thread.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/cli/arguments.h"

namespace tessera::cli {

// The token and the key are secrets: they appear in no error and no log.
struct ConnectionOptions {
  std::string server;       // HOST:PORT
  std::string token;        // goes with every call; "": none
  bool tls = false;         // false: the other side is not checked, and all bytes are plain text
  std::string ca;           // PEM of the authorities that may sign the server's certificate;
                            // "": the authorities that this system trusts
  std::string certificate;  // PEM of the client's certificate; "": none
  std::string key;          // PEM of its private key
};

// The flags of a connection, which all client programs have.
std::vector<FlagSpec> ConnectionFlags();
// The flag --token-file alone, for commands that connect to no server.
FlagSpec TokenFileFlag();

// Reads the flags, the environment variables that stand in for absent flags, and the files that
// they name. Errors say what to change.
absl::StatusOr<ConnectionOptions> ReadConnection(const Arguments& arguments);

// The token in the file of --token-file, else of $TESSERA_TOKEN_FILE; "" without both.
absl::StatusOr<std::string> ReadToken(const Arguments& arguments);

}  // namespace tessera::cli
