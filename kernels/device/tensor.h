// A view of device memory with a type and a shape; owns nothing. Rows are contiguous unless
// `row_stride` says otherwise.
#pragma once

#include <cstdint>

#include "kernels/base/types.h"

namespace tessera {

struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_stride = 0;  // elements from one row to the next

  static Tensor F32(float* data, int64_t rows, int64_t cols) {
    return {data, DType::kF32, rows, cols, cols};
  }
  float* f32(int64_t row = 0) const { return static_cast<float*>(data) + row * row_stride; }
  Tensor Rows(int64_t begin, int64_t count) const {
    Tensor view = *this;
    view.data = static_cast<char*>(data) + begin * row_stride * DTypeBytes(dtype);
    view.rows = count;
    return view;
  }
  bool empty() const { return data == nullptr; }
};

// Whoever packs a weight tells it which rows come next, so that it may use them while they are in
// the cache.
class RowObserver {
 public:
  virtual ~RowObserver() = default;
  // The calling thread reads rows [begin, end) next. Several threads may call at once; no row is
  // named twice.
  virtual void WillRead(int64_t begin, int64_t end) = 0;
};

// A read-only view of a weight as it lies in the checkpoint. [rows, cols], row-major; a vector has
// rows = 1.
//
// With kI8 or kI4 the numbers were quantised by somebody else (GPTQ, AWQ, compressed-tensors) and
// are taken as they are: `data` has one code a byte (kI4: 0..15), in the sense of
// kernels/device/weight_format.h, and every group of the format it is packed into has its scale
// here.
struct WeightView {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  const void* scales = nullptr;     // [rows, groups] of scale_dtype
  DType scale_dtype = DType::kF32;  // kF32, kBF16 or kF16
  const uint8_t* zeros = nullptr;   // [rows, groups]; null: the symmetric zero
  // Null: none. A backend need not call it, or not for all rows. It outlives the packing.
  RowObserver* observer = nullptr;

  bool quantized() const { return dtype == DType::kI8 || dtype == DType::kI4; }
};

}  // namespace tessera
