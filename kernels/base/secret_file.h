// Reads files that hold a secret: a private key, a bearer token. Like ReadForeignFile, with one
// more condition: only the owner of the file and its group may have rights to it, because any user
// of the machine could otherwise read the secret or replace it. Group rights are allowed, because
// Kubernetes and Docker give secrets to a process by its group.
//
// Errors name the path and say what to change; they contain no byte of the file. Any thread.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace tessera {

// Returns the content of the file at `path`, which has at most `max_bytes` bytes.
// FAILED_PRECONDITION: other users have rights to the file. The other errors are those of
// ForeignFile.
absl::StatusOr<std::string> ReadSecretFile(const std::string& path, int64_t max_bytes);

}  // namespace tessera
