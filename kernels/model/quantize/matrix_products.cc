#include "kernels/model/quantize/matrix_products.h"

#include <cstddef>

#include "kernels/device/ops.h"
#include "kernels/device/tensor.h"

namespace tessera {
namespace {

constexpr int64_t kAlignFloats = 16;

}  // namespace

bool MatrixProducts::Add(const float* a, int64_t m, const float* b, int64_t n, int64_t k,
                         float* out) {
  if (m == 0 || n == 0 || k == 0) return true;
  const int64_t out_begin = RoundUp(m * k, kAlignFloats);
  const size_t bytes = static_cast<size_t>(out_begin + m * n) * sizeof(float);
  if (memory_ == nullptr || memory_->size() < bytes) {
    memory_.reset();
    memory_ = backend_->Allocate(bytes);
    if (memory_ == nullptr) return false;
  }
  const std::unique_ptr<PackedWeight> weight =
      backend_->Pack({WeightView{b, DType::kF32, n, k}}, DType::kF32, /*interleave_gate=*/false);
  if (weight == nullptr) return false;
  float* const device_a = static_cast<float*>(memory_->data());
  float* const device_out = device_a + out_begin;
  const size_t out_bytes = static_cast<size_t>(m * n) * sizeof(float);
  backend_->Upload(a, device_a, static_cast<size_t>(m * k) * sizeof(float));
  backend_->Upload(out, device_out, out_bytes);
  LinearArgs args;
  args.x = Tensor::F32(device_a, m, k);
  args.weight = weight.get();
  args.epilogue = Epilogue::kResidualAdd;
  args.out = Tensor::F32(device_out, m, n);
  backend_->Linear(args);
  backend_->Download(device_out, out, out_bytes);
  return true;
}

}  // namespace tessera
