// The one way to open a file that somebody else made: the files of a model, a tokenizer, an
// adapter, the configuration, a cache. The path may name anything, and another process may change
// the file meanwhile. Opening never blocks and accepts regular files of a bounded size only, so
// that a named pipe, a device, a socket or a folder is an error and not a thread that hangs.
// Reading never faults: a file that becomes shorter is an error (mapped_file.h maps a file with the
// same promise).
//
// Errors name the path, say what is there, and say what to change. They quote no bytes of the file.
// NOT_FOUND: nothing has this path. INVALID_ARGUMENT: the path names something else, or the content
// is wrong. Two errors are not of the file, and the same file may be read later:
// FAILED_PRECONDITION: the process has not the right to read it. UNAVAILABLE: the system cannot
// read it now (too many open files, an error of the disk).
//
// A ForeignFile owns its descriptor. It is immutable after Open; any thread.
#pragma once

#include <cstdint>
#include <ctime>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tessera {

struct ForeignFileOptions {
  // The largest accepted size in bytes. Choose the largest size that such a file has in practice;
  // the whole file may be read into memory.
  int64_t max_bytes = int64_t{16} << 20;
  // Folders; the file must lie below one of them after all links are resolved. Empty: the file may
  // lie anywhere. Set the folders when the path comes from a client.
  std::vector<std::string> roots;
};

class ForeignFile final {
 public:
  static absl::StatusOr<ForeignFile> Open(const std::string& path,
                                          const ForeignFileOptions& options);
  ForeignFile(ForeignFile&& other) noexcept;
  ForeignFile& operator=(ForeignFile&& other) noexcept;
  ~ForeignFile();

  const std::string& path() const { return path_; }
  int64_t size() const { return size_; }  // bytes, when the file was opened
  int fd() const { return fd_; }

  // Reads bytes [offset, offset + num_bytes) to `out`.
  absl::Status ReadAt(int64_t offset, int64_t num_bytes, char* out) const;
  // Reads the first size() bytes.
  absl::StatusOr<std::string> ReadAll() const;
  // OK, or an error if the file's size or modification time is not what it was when the file was
  // opened.
  absl::Status CheckUnchanged() const;

 private:
  ForeignFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  absl::Status Changed(absl::string_view how) const;

  std::string path_;
  int fd_ = -1;
  int64_t size_ = 0;
  timespec modified_ = {};
};

// Opens the file and returns its content.
absl::StatusOr<std::string> ReadForeignFile(const std::string& path,
                                            const ForeignFileOptions& options);

}  // namespace tessera
