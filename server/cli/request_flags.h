// The flags that the commands generate and chat share, and their conversion to a request. Pure
// functions; any thread.
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

// Fills all fields of the request except the prompt. A field whose flag was not given stays unset,
// so that the server chooses its value.
absl::Status ApplyRequestFlags(const Arguments& arguments, v1::GenerateRequest* request);
absl::Status ApplyRequestFlags(const Arguments& arguments, v1::ChatRequest* request);

}  // namespace tessera::cli
