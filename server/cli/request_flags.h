// The flags that generate and chat share, and how they become a request.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "server/cli/arguments.h"

namespace tessera::v1 {
class ChatRequest;
class GenerateRequest;
}  // namespace tessera::v1

namespace tessera::cli {

std::vector<FlagSpec> RequestFlags();

// Fills all but the prompt. Only what was given is set: the rest is the server's to choose.
absl::Status ApplyRequestFlags(const Arguments& arguments, v1::GenerateRequest* request);
absl::Status ApplyRequestFlags(const Arguments& arguments, v1::ChatRequest* request);

}  // namespace tessera::cli
