// The objects in a backend's memory: buffers, and weights in the backend's own layout. The caller
// that creates an object through the backend owns the object. This header includes neither absl nor
// spdlog, because CUDA sources include it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "kernels/base/types.h"
#include "kernels/device/weight_format.h"

namespace tessera {

// A range of device memory, which the destructor frees.
class DeviceBuffer {
 public:
  virtual ~DeviceBuffer() = default;
  virtual void* data() = 0;
  virtual size_t size() const = 0;
};

// A weight in the backend's layout, created by Backend::Pack or Backend::Restore. Immutable; any
// thread.
class PackedWeight {
 public:
  virtual ~PackedWeight() = default;
  virtual int64_t rows() const = 0;  // N, outputs (after fusing)
  virtual int64_t cols() const = 0;  // K, inputs
  virtual const WeightFormat& format() const = 0;
  virtual size_t bytes() const = 0;
  // Whether Backend::Restore can create the weight from the bytes of ReadPacked.
  virtual bool restorable() const { return false; }
  // Copies bytes [offset, offset + count) of bytes() to the host. Any thread. REQUIRES:
  // restorable().
  virtual void ReadPacked(size_t offset, size_t count, char* out) const {}
  DType dtype() const { return format().dtype; }
};

// Writes the `bytes` bytes of a packed weight to `packed`. Returns false if it cannot.
using FillPacked = std::function<bool(char* packed, size_t bytes)>;

}  // namespace tessera
