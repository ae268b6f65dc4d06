// A backend that quantises the weights of a model while the model runs on it. It passes every call
// on to another backend. A Linear whose weight is one of the layers' matrices is computed twice:
// the first half of the rows (the calibration sequences) with the original weight, and the second
// half (the same sequences again) with the quantised weight, which is made from the inputs of both
// halves. The quantiser (quantize_model.cc) owns it; the rank thread makes all calls.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/device/backend.h"

namespace tessera {

class QuantizingBackend final : public Backend {
 public:
  // Returns the weight of the second half of the rows; null: both halves use the original weight.
  using Quantize = std::function<std::unique_ptr<PackedWeight>(const LinearArgs& args)>;

  explicit QuantizingBackend(Backend* backend) : backend_(backend) {}
  void set_quantize(Quantize quantize) { quantize_ = std::move(quantize); }

  std::string name() const override { return backend_->name(); }
  std::unique_ptr<DeviceBuffer> Allocate(size_t bytes) override {
    return backend_->Allocate(bytes);
  }
  void Upload(const void* from, void* to_device, size_t bytes) override {
    backend_->Upload(from, to_device, bytes);
  }
  void Download(const void* from_device, void* to, size_t bytes) override {
    backend_->Download(from_device, to, bytes);
  }
  std::unique_ptr<PackedWeight> Pack(const std::vector<WeightView>& parts,
                                     const WeightFormat& format, bool interleave_gate) override {
    return backend_->Pack(parts, format, interleave_gate);
  }
  WorkPlan Plan(const BatchView& batch, const StepShape& shape) const override {
    return backend_->Plan(batch, Widened(shape));
  }
  bool Reserve(const WorkPlan& plan) override { return backend_->Reserve(plan); }
  void BeginStep(const BatchView& batch, const StepShape& shape, const WorkPlan& plan) override {
    backend_->BeginStep(batch, Widened(shape), plan);
  }
  int64_t num_grown() const override { return backend_->num_grown(); }
  void Apply(const ApplyArgs& args) override { backend_->Apply(args); }
  void Embed(const EmbedArgs& args) override { backend_->Embed(args); }
  void Linear(const LinearArgs& args) override;
  void Attention(const AttentionArgs& args) override { backend_->Attention(args); }
  void TapHidden(const HiddenTapArgs& args) override { backend_->TapHidden(args); }
  void Logits(const LogitsArgs& args) override { backend_->Logits(args); }
  void Sample(const SampleArgs& args) override { backend_->Sample(args); }

  // The widest input of a Linear. A step's own shape leaves out inputs that no weight of the
  // original type copies, but quantised weights copy every input.
  void set_widest_input(int64_t cols) { widest_input_ = cols; }

 private:
  StepShape Widened(StepShape shape) const;

  Backend* const backend_;
  Quantize quantize_;
  int64_t widest_input_ = 0;
};

}  // namespace tessera
