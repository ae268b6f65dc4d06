// Views of device memory (Tensor) and of checkpoint memory (WeightView) with a type and a shape. A
// view owns no memory; the owner of the memory must outlive the view. Any thread.
#pragma once

#include <cstdint>

#include "kernels/base/types.h"

namespace tessera {

// A matrix in device memory. Rows are contiguous if row_stride equals cols.
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_stride = 0;  // number of elements from the start of one row to the start of the next

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

// The code that packs a weight tells the weight's RowObserver which rows it reads next, so that the
// observer may use these rows while they are in the cache.
class RowObserver {
 public:
  virtual ~RowObserver() = default;
  // The calling thread reads rows [begin, end) next. Several threads may call at the same time; no
  // row is named twice.
  virtual void WillRead(int64_t begin, int64_t end) = 0;
};

// A read-only view of a weight of a checkpoint: [rows, cols], row-major. A vector has rows = 1.
//
// With kI8, kI5 or kI4, the weight is quantised (GPTQ, AWQ, compressed-tensors) and its codes are
// not quantised again. `data` then has one code per byte (kI4: 0..15, kI5: 0..31), as defined by
// kernels/device/weight_format.h. `scales` has a scale for every group of the format into which the
// weight is packed.
struct WeightView {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  const void* scales = nullptr;     // [rows, groups] numbers of scale_dtype
  DType scale_dtype = DType::kF32;  // kF32, kBF16 or kF16
  const uint8_t* zeros = nullptr;   // [rows, groups]; null: all zeros are the symmetric zero
  // Null: no observer. A backend need not call it, or not for all rows. The observer outlives the
  // packing.
  RowObserver* observer = nullptr;

  bool quantized() const {
    return dtype == DType::kI8 || dtype == DType::kI5 || dtype == DType::kI4;
  }
};

}  // namespace tessera
