// Standard output of the client programs. Commands print with stdio; streams flush after each
// message and main flushes at the end, so that output that cannot be written (a full disk) is
// noticed. Main thread.
#pragma once

#include "absl/status/status.h"

namespace tessera::cli {

// Writes what is buffered for standard output. Returns an error if any output since the start of
// the program could not be written.
absl::Status FlushOutput();

}  // namespace tessera::cli
