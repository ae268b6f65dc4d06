// Bearer tokens: how they are made and read, and the hash by which a server knows them. A token is
// a secret: it appears in no error and no log. Pure functions, and functions that read a file; any
// thread.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tessera::cli {

// The longest token in bytes. A server refuses longer ones too.
inline constexpr size_t kMaxTokenBytes = 4096;

// Returns a new token: "tsr_" and 32 random bytes in base64url without padding. The prefix lets
// scanners find tokens that were published by mistake.
absl::StatusOr<std::string> MakeToken();

// Returns the SHA-256 of the token's bytes as 64 lower-case hexadecimal digits, which is
// security.identities[].token_sha256 of the server's configuration.
std::string TokenHash(absl::string_view token);

// Returns the token in a file to which other users have no rights, without its last line break.
// An empty token, and one with bytes other than printable ASCII, is an error.
absl::StatusOr<std::string> ReadTokenFile(const std::string& path);

}  // namespace tessera::cli
