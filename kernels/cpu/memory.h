// Memory of the cpu backend: zeroed, aligned to 2 MiB and backed by huge pages where the kernel
// grants them, so that a step that reads a gigabyte of weights does not live in the TLB.
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
  // Null when there is not enough memory.
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

// Counts how often working memory grew because an op needed more than was set aside.
using GrowthCount = std::atomic<int64_t>;

// Working memory that is set aside before a step and stays. Growing loses the contents.
class Scratch {
 public:
  // `num_grown` outlives the scratch.
  explicit Scratch(GrowthCount* num_grown) : num_grown_(num_grown) {}

  // Sets at least `bytes` aside. False: memory is short.
  bool Reserve(int64_t bytes);
  // Aligned to 64 bytes; null for 0 bytes if none are set aside. Takes more memory, and counts it,
  // when less is set aside; running out of memory then is fatal.
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
