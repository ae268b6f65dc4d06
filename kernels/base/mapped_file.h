// A file that is mapped for reading, whose bytes may be read although another process makes the
// file shorter or the disk fails. The kernel then sends SIGBUS to the thread that reads. The
// handler that the first Open installs replaces the lost bytes, from there to the end of the
// mapping, by zeros and marks the file; the reading thread continues. Whoever used the bytes calls
// CheckIntact before the result is trusted. A SIGBUS at any other address takes the action that was
// set before. A copy of the file in memory would need no handler, but would cost the time and the
// memory of the copy.
//
// Immutable after Open; any thread. The owner must keep the object while threads read its bytes.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/base/foreign_file.h"

namespace tessera {

class MappedFile final {
 public:
  // Opens the file as ForeignFile does. An empty file is an error.
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path,
                                                          const ForeignFileOptions& options);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  absl::string_view bytes() const { return {data_, size_}; }
  // OK, or an error that names the file if it changed since it was opened, or if bytes were lost.
  absl::Status CheckIntact() const;

 private:
  struct Range;
  class Ranges;

  MappedFile(ForeignFile file, const char* data, size_t size);

  const ForeignFile file_;
  const char* const data_;
  const size_t size_;
  Range* const range_;  // what the handler knows of the mapping
};

}  // namespace tessera
