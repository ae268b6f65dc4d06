// A backend whose device memory the host cannot touch: what a GPU's memory is, on the CPU. Every
// buffer is mapped twice, once without any access (the address that callers see) and once for the
// backend inside, which runs the ops. A host read or write of device memory ends the process, and
// so does a host pointer where an op takes device memory. A step's batch is copied when the step
// begins, as an upload would, and the ops see the copy.
//
// RunLayers also proves its key: layers that run under equal keys must issue the same ops with the
// same addresses.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "kernels/device/backend.h"

namespace tessera::testing {

class FakeDevice final : public Backend {
 public:
  // `inner` is a backend whose memory is the host's.
  explicit FakeDevice(std::unique_ptr<Backend> inner) : inner_(std::move(inner)) {}

  std::string name() const override { return inner_->name(); }
  std::unique_ptr<DeviceBuffer> Allocate(size_t bytes) override;
  void Upload(const void* from, void* to_device, size_t bytes) override;
  void Download(const void* from_device, void* to, size_t bytes) override;
  std::unique_ptr<PackedWeight> Pack(const std::vector<WeightView>& parts,
                                     const WeightFormat& format, bool interleave_gate) override {
    return inner_->Pack(parts, format, interleave_gate);
  }
  std::unique_ptr<PackedWeight> Restore(const std::vector<WeightView>& parts,
                                        const WeightFormat& format, bool interleave_gate,
                                        const FillPacked& fill) override {
    return inner_->Restore(parts, format, interleave_gate, fill);
  }
  WorkPlan Plan(const BatchView& batch, const StepShape& shape) const override {
    return inner_->Plan(batch, shape);
  }
  bool Reserve(const WorkPlan& plan) override { return inner_->Reserve(plan); }
  void BeginStep(const BatchView& batch, const StepShape& shape, const WorkPlan& plan) override;
  int64_t num_grown() const override { return inner_->num_grown(); }
  void Apply(const ApplyArgs& args) override;
  void Embed(const EmbedArgs& args) override;
  void Linear(const LinearArgs& args) override;
  void Attention(const AttentionArgs& args) override;
  void TapHidden(const HiddenTapArgs& args) override;
  void Logits(const LogitsArgs& args) override;
  void Sample(const SampleArgs& args) override;
  void RunLayers(const GraphKey& key, const std::function<void()>& body) override;

  // Calls of RunLayers under a key that an earlier step had.
  int64_t num_replays() const { return num_replays_; }

 private:
  class Buffer;

  // The address inside for an address that callers see. Null stays null; a host pointer ends the
  // process.
  template <class T>
  T* Inside(T* device) const {
    return static_cast<T*>(Translate(const_cast<void*>(static_cast<const void*>(device))));
  }
  void* Translate(void* device) const;
  Tensor Inside(const Tensor& tensor) const;
  NormArgs Inside(const NormArgs& norm) const;
  PoolView Inside(const PoolView& pool) const;
  BatchView Uploaded(const BatchView& batch) const;
  // Adds an op's addresses to what the current RunLayers issued.
  void Record(const std::vector<const void*>& addresses, int64_t number);

  const std::unique_ptr<Backend> inner_;
  mutable std::mutex mutex_;  // of buffers_: loaders upload while steps run
  std::map<const char*, std::pair<size_t, char*>> buffers_;  // device address: bytes, inside
  const char* batch_base_ = nullptr;                         // of the step's batch on the host
  StepBatch batch_;
  std::vector<char> arena_;  // the uploaded batch
  uint64_t issued_ = 0;      // hash of the ops of the current RunLayers
  std::vector<std::pair<GraphKey, uint64_t>> keys_;
  int64_t num_replays_ = 0;
};

}  // namespace tessera::testing
