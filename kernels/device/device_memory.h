// What lies in a backend's memory: buffers, and weights in the backend's own layout. Owned by
// whoever asked the backend for them. Free of absl and spdlog (CUDA sources see it).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "kernels/base/types.h"
#include "kernels/device/weight_format.h"

namespace tessera {

// Device memory, freed with the object.
class DeviceBuffer {
 public:
  virtual ~DeviceBuffer() = default;
  virtual void* data() = 0;
  virtual size_t size() const = 0;
};

// Made by Backend::Pack, or taken back by Backend::Restore. Immutable; any thread.
class PackedWeight {
 public:
  virtual ~PackedWeight() = default;
  virtual int64_t rows() const = 0;  // N, outputs (after fusing)
  virtual int64_t cols() const = 0;  // K, inputs
  virtual const WeightFormat& format() const = 0;
  virtual size_t bytes() const = 0;
  // Whether Backend::Restore takes what ReadPacked gives.
  virtual bool restorable() const { return false; }
  // Copies bytes [offset, offset + count) of bytes() to the host. Any thread. REQUIRES:
  // restorable().
  virtual void ReadPacked(size_t offset, size_t count, char* out) const {}
  DType dtype() const { return format().dtype; }
};

using FillPacked = std::function<bool(char* packed, size_t bytes)>;  // false: it cannot

}  // namespace tessera
