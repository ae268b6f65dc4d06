// The memory of the cpu backend. HugeBuffer is zeroed memory; a large buffer is aligned to 2 MiB
// and uses huge pages if the operating system grants them, so that a step that reads a gigabyte of
// weights has few TLB misses. Scratch is working memory. The creator of a buffer owns it. One
// thread at a time uses a Scratch.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "kernels/device/backend.h"
#include "kernels/device/footprint.h"

namespace tessera::cpu {

inline constexpr size_t kHugePageBytes = size_t{kLargePageBytes};

class HugeBuffer final : public DeviceBuffer {
 public:
  // Returns null if there is not enough memory.
  static std::unique_ptr<HugeBuffer> Create(size_t bytes);
  ~HugeBuffer() override;
  HugeBuffer(const HugeBuffer&) = delete;
  HugeBuffer& operator=(const HugeBuffer&) = delete;

  void* data() override { return data_; }
  const char* bytes() const { return data_; }
  size_t size() const override { return size_; }

 private:
  HugeBuffer(char* mapping, size_t mapping_bytes, char* data, size_t size)
      : mapping_(mapping), mapping_bytes_(mapping_bytes), data_(data), size_(size) {}

  char* mapping_;
  size_t mapping_bytes_;
  char* data_;
  size_t size_;
};

// The number of times that working memory grew because an op needed more than was reserved.
using GrowthCount = std::atomic<int64_t>;

// Working memory that is reserved before a step and kept for later steps. When a Scratch grows, its
// contents are lost.
class Scratch {
 public:
  // `num_grown` outlives the scratch.
  explicit Scratch(GrowthCount* num_grown) : num_grown_(num_grown) {}

  // Reserves at least `bytes` bytes. Returns false if there is not enough memory.
  bool Reserve(int64_t bytes);
  // Returns `bytes` bytes, aligned to 64 bytes; null if `bytes` is 0 and nothing is reserved. If
  // fewer bytes are reserved, allocates more and increments *num_grown; the process ends if that
  // fails.
  char* Bytes(size_t bytes);
  int64_t size() const { return buffer_ == nullptr ? 0 : static_cast<int64_t>(buffer_->size()); }
  float* Floats(int64_t count) {
    return reinterpret_cast<float*>(Bytes(sizeof(float) * static_cast<size_t>(count)));
  }

 private:
  GrowthCount* const num_grown_;
  std::unique_ptr<HugeBuffer> buffer_;
};

}  // namespace tessera::cpu
