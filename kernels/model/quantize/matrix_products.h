// Products of large fp32 matrices, computed by a backend's Linear, which is the fastest product
// that Tessera has on every machine. Owned and called by the thread that quantises a model; no step
// may run on the backend.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/device/backend.h"

namespace tessera {

class MatrixProducts final {
 public:
  // `backend` must outlive the object.
  explicit MatrixProducts(Backend* backend) : backend_(backend) {}

  // out [m, n] += a [m, k] b [n, k]^T. All matrices are in host memory and have contiguous rows.
  // Returns false if there is not enough memory.
  [[nodiscard]] bool Add(const float* a, int64_t m, const float* b, int64_t n, int64_t k,
                         float* out);

 private:
  Backend* const backend_;
  std::unique_ptr<DeviceBuffer> memory_;  // a, then out
};

}  // namespace tessera
