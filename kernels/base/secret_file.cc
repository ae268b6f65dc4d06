#include "kernels/base/secret_file.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/foreign_file.h"
#include "kernels/base/status.h"

namespace tessera {

absl::StatusOr<std::string> ReadSecretFile(const std::string& path, int64_t max_bytes) {
  ASSIGN_OR_RETURN(const ForeignFile file,
                   ForeignFile::Open(path, {.max_bytes = max_bytes, .roots = {}}));
  // The rights are those of the open file, so that a path that changes meanwhile has no effect.
  struct stat info;
  if (fstat(file.fd(), &info) != 0) {
    return absl::UnavailableError(absl::StrCat(path, ": ", std::strerror(errno)));
  }
  if ((info.st_mode & S_IRWXO) != 0) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "%s: has the mode %04o, which gives all users of this machine rights to the secret; run "
        "chmod o-rwx %s",
        path, static_cast<unsigned>(info.st_mode & 07777), path));
  }
  return file.ReadAll();
}

}  // namespace tessera
