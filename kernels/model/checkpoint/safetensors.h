// Reads safetensors files by mapping them: a single file or the shards of a model folder. A file is
// believed only as far as its header can be checked: every tensor lies inside the file, its bytes
// are its shape times its type, and tensors neither overlap nor leave holes. Tensors point into the
// mapping, which lives as long as the object. Immutable after opening; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/base/types.h"

namespace tessera {

struct StoredTensor {
  std::string dtype_name;      // as the file spells it
  std::optional<DType> dtype;  // of the types that weights may have: F32, F16, BF16
  std::vector<int64_t> shape;  // bounded: its product of bytes fits the file
  const char* data = nullptr;  // may be unaligned
  int64_t num_bytes = 0;
  std::string file;  // path, for messages

  std::string ShapeString() const;  // "[2, 3]"
};

// By name.
using StoredTensors = std::map<std::string, StoredTensor, std::less<>>;

inline constexpr int64_t kMaxSafetensorsHeaderBytes = 100'000'000;

// Checks the bytes of a whole file and lists its tensors. Errors name `file` and the tensor.
absl::StatusOr<StoredTensors> ParseSafetensors(const std::string& file, absl::string_view bytes);

// A file mapped for reading.
class MappedFile final {
 public:
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  absl::string_view bytes() const { return {data_, size_}; }

 private:
  MappedFile(const char* data, size_t size) : data_(data), size_(size) {}

  const char* const data_;
  const size_t size_;
};

class Checkpoint final {
 public:
  // One file.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> OpenFile(const std::string& path);
  // One file, read into memory: whoever cuts it short meanwhile gets an error, not a fault.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> ReadIntoMemory(const std::string& path);
  // `dir`/model.safetensors, or the shards that `dir`/model.safetensors.index.json lists.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> OpenDir(const std::string& dir);

  // Null when there is no such tensor.
  const StoredTensor* Find(absl::string_view name) const;
  const StoredTensors& tensors() const { return tensors_; }

  // Tells the kernel that the tensor's bytes are needed soon, so that it may read ahead.
  void Prefetch(const StoredTensor& tensor) const;

  // Tells the kernel that the tensor's bytes are not needed for now: they no longer count as
  // resident, and are read again when touched.
  void Drop(const StoredTensor& tensor) const;

 private:
  Checkpoint() = default;
  absl::Status Add(const std::string& path);

  std::vector<std::unique_ptr<MappedFile>> files_;
  std::string bytes_;  // of ReadIntoMemory
  StoredTensors tensors_;
};

}  // namespace tessera
