#include "kernels/base/foreign_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status.h"

namespace tessera {
namespace {

// The first bytes of a Git LFS pointer: a small text that stands for a file that was not
// downloaded.
constexpr absl::string_view kLfsPointer = "version https://git-lfs.github.com/spec/";
constexpr int64_t kMaxLfsPointerBytes = 1024;

absl::Status Refused(absl::string_view path, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
}

std::string TargetOfLink(const std::string& path) {
  std::array<char, PATH_MAX> target;
  const ssize_t bytes = readlink(path.c_str(), target.data(), target.size());
  return bytes < 0 ? "" : std::string(target.data(), static_cast<size_t>(bytes));
}

// The error of a system call that got the path.
absl::Status SystemError(const std::string& path, int error) {
  const std::string message = absl::StrCat(path, ": ", std::strerror(error));
  switch (error) {
    case ENOENT:
      if (const std::string target = TargetOfLink(path); !target.empty()) {
        return Refused(path, absl::StrCat("is a link to ", target,
                                          ", which does not exist; download the file again"));
      }
      return absl::NotFoundError(message);
    case ENOTDIR:
      return absl::NotFoundError(message);
    case ELOOP:
    case ENAMETOOLONG:
      return absl::InvalidArgumentError(message);
    case EACCES:
    case EPERM:
      return absl::FailedPreconditionError(
          absl::StrCat(message, "; give the user of this process the right to read it"));
    default:
      return absl::UnavailableError(message);
  }
}

const char* KindOf(mode_t mode) {
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a named pipe";
  if (S_ISSOCK(mode)) return "a socket";
  return S_ISCHR(mode) || S_ISBLK(mode) ? "a device" : "something else";
}

absl::Status CheckKind(const std::string& path, const struct stat& info,
                       const ForeignFileOptions& options) {
  if (!S_ISREG(info.st_mode)) {
    return Refused(path, absl::StrCat("is ", KindOf(info.st_mode), "; give a regular file"));
  }
  if (info.st_size <= options.max_bytes) return absl::OkStatus();
  return Refused(path, absl::StrCat("has ", info.st_size, " bytes; a file of its kind has at most ",
                                    options.max_bytes, ": check that it is the right file"));
}

bool IsBelow(absl::string_view path, const std::string& root) {
  const std::unique_ptr<char, void (*)(void*)> real(realpath(root.c_str(), nullptr), &std::free);
  if (real == nullptr) return false;
  std::string folder = real.get();
  if (!absl::EndsWith(folder, "/")) folder += '/';
  return absl::StartsWith(path, folder);
}

// Asks the kernel where the open file lies, so that a link that changes meanwhile has no effect.
absl::Status CheckRoots(const ForeignFile& file, const std::vector<std::string>& roots) {
  if (roots.empty()) return absl::OkStatus();
  const std::string real = TargetOfLink(absl::StrCat("/proc/self/fd/", file.fd()));
  const bool is_inside = std::any_of(
      roots.begin(), roots.end(), [&real](const std::string& root) { return IsBelow(real, root); });
  if (is_inside) return absl::OkStatus();
  return Refused(file.path(),
                 absl::StrCat("lies outside the allowed folders (", absl::StrJoin(roots, ", "),
                              "); move it there, or add its folder to adapters.roots"));
}

absl::Status CheckNoLfsPointer(const ForeignFile& file) {
  const int64_t length = static_cast<int64_t>(kLfsPointer.size());
  if (file.size() < length || file.size() > kMaxLfsPointerBytes) return absl::OkStatus();
  std::string begin(kLfsPointer.size(), '\0');
  RETURN_IF_ERROR(file.ReadAt(0, length, begin.data()));
  if (begin != kLfsPointer) return absl::OkStatus();
  return Refused(file.path(),
                 "is a Git LFS pointer, which stands for the file; run `git lfs pull` in its "
                 "repository, or download the file");
}

}  // namespace

absl::StatusOr<ForeignFile> ForeignFile::Open(const std::string& path,
                                              const ForeignFileOptions& options) {
  if (path.empty()) return absl::InvalidArgumentError("the path of a file is empty; give one");
  if (path.find('\0') != std::string::npos) {
    return Refused(absl::CHexEscape(path), "a path has no NUL; remove it");
  }
  // The kind is checked before opening, because opening a device or a pipe may have an effect, and
  // again after opening, because the file may have been replaced meanwhile.
  struct stat info;
  if (stat(path.c_str(), &info) != 0) return SystemError(path, errno);
  RETURN_IF_ERROR(CheckKind(path, info, options));
  const int fd = open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
  if (fd < 0) return SystemError(path, errno);
  ForeignFile file(path, fd);
  if (fstat(fd, &info) != 0) return SystemError(path, errno);
  RETURN_IF_ERROR(CheckKind(path, info, options));
  file.size_ = info.st_size;
  file.modified_ = info.st_mtim;
  RETURN_IF_ERROR(CheckRoots(file, options.roots));
  RETURN_IF_ERROR(CheckNoLfsPointer(file));
  return file;
}

ForeignFile::ForeignFile(ForeignFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      size_(other.size_),
      modified_(other.modified_) {}

ForeignFile& ForeignFile::operator=(ForeignFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(size_, other.size_);
  std::swap(modified_, other.modified_);
  return *this;
}

ForeignFile::~ForeignFile() {
  if (fd_ >= 0) close(fd_);
}

absl::Status ForeignFile::ReadAt(int64_t offset, int64_t num_bytes, char* out) const {
  for (int64_t done = 0; done < num_bytes;) {
    const ssize_t got = pread(fd_, out + done, static_cast<size_t>(num_bytes - done),
                              static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return SystemError(path_, errno);
    if (got == 0) return Changed("became shorter");
    done += got;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ForeignFile::ReadAll() const {
  std::string bytes(static_cast<size_t>(size_), '\0');
  RETURN_IF_ERROR(ReadAt(0, size_, bytes.data()));
  return bytes;
}

absl::Status ForeignFile::CheckUnchanged() const {
  struct stat info;
  if (fstat(fd_, &info) != 0) return SystemError(path_, errno);
  if (info.st_size < size_) return Changed("became shorter");
  const bool is_same = info.st_size == size_ && info.st_mtim.tv_sec == modified_.tv_sec &&
                       info.st_mtim.tv_nsec == modified_.tv_nsec;
  return is_same ? absl::OkStatus() : Changed("changed");
}

absl::Status ForeignFile::Changed(absl::string_view how) const {
  return Refused(path_, absl::StrCat(how,
                                     " while it was read; read it again when it is complete, and "
                                     "replace files by renaming, not in place"));
}

absl::StatusOr<std::string> ReadForeignFile(const std::string& path,
                                            const ForeignFileOptions& options) {
  ASSIGN_OR_RETURN(const ForeignFile file, ForeignFile::Open(path, options));
  return file.ReadAll();
}

}  // namespace tessera
