#include "kernels/model/quantize/quantizing_backend.h"

#include <algorithm>

namespace tessera {

void QuantizingBackend::Linear(const LinearArgs& args) {
  const std::unique_ptr<PackedWeight> quantized = quantize_ == nullptr ? nullptr : quantize_(args);
  if (quantized == nullptr) {
    backend_->Linear(args);
    return;
  }
  const int64_t half = args.x.rows / 2;
  LinearArgs part = args;
  part.x = args.x.Rows(0, half);
  part.out = args.out.Rows(0, half);
  backend_->Linear(part);
  part.x = args.x.Rows(half, half);
  part.out = args.out.Rows(half, half);
  part.weight = quantized.get();
  backend_->Linear(part);
}

StepShape QuantizingBackend::Widened(StepShape shape) const {
  shape.widest_input = std::max(shape.widest_input, widest_input_);
  return shape;
}

}  // namespace tessera
