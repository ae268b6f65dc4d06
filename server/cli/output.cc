#include "server/cli/output.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace tessera::cli {

absl::Status FlushOutput() {
  const bool failed_before = std::ferror(stdout) != 0;
  errno = 0;
  if (std::fflush(stdout) != 0) {
    return absl::DataLossError(
        absl::StrCat("cannot write to standard output: ", std::strerror(errno)));
  }
  if (!failed_before) return absl::OkStatus();
  return absl::DataLossError("cannot write to standard output; the output is not complete");
}

}  // namespace tessera::cli
