// FakeDevice is a CPU backend whose device memory the host cannot access, like the memory of a GPU.
// Every buffer is mapped twice: without access rights at the address that callers see, and with
// access at the address that the inner backend uses, which runs the ops. A host read or write of
// device memory ends the process, and so does a host pointer passed to an op as device memory.
// BeginStep copies the step's batch, like an upload, and the ops read the copy. A test owns the
// device; Upload and Download may be called on any thread.
//
// BeginStep also checks the plan of memory: once Reserve was called, no step takes more than
// Reserve has set aside. RunLayers also checks graph keys: layers that run under equal keys must
// issue the same ops with the same addresses.
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
  // `inner` is a backend whose device memory is host memory.
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
  bool Reserve(const WorkPlan& plan) override {
    reserved_.Include(plan);
    return inner_->Reserve(plan);
  }
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

  // The number of calls of RunLayers with a key that an earlier call had.
  int64_t num_replays() const { return num_replays_; }

 private:
  class Buffer;

  // Returns the inner backend's address for an address that callers see. Null stays null; a host
  // pointer ends the process.
  template <class T>
  T* Inside(T* device) const {
    return static_cast<T*>(Translate(const_cast<void*>(static_cast<const void*>(device))));
  }
  void* Translate(void* device) const;
  Tensor Inside(const Tensor& tensor) const;
  NormArgs Inside(const NormArgs& norm) const;
  PoolView Inside(const PoolView& pool) const;
  BatchView Uploaded(const BatchView& batch) const;
  // Adds an op's addresses to issued_.
  void Record(const std::vector<const void*>& addresses, int64_t number);

  const std::unique_ptr<Backend> inner_;
  mutable std::mutex mutex_;  // guards buffers_, because loaders upload while steps run
  std::map<const char*, std::pair<size_t, char*>> buffers_;  // address: size, inner address
  WorkPlan reserved_;                 // the largest plan that Reserve was given
  const char* batch_base_ = nullptr;  // the host's arena of the step's batch
  StepBatch batch_;
  std::vector<char> arena_;  // the copy of the step's arena
  uint64_t issued_ = 0;      // hash of the ops that the current RunLayers issued
  std::vector<std::pair<GraphKey, uint64_t>> keys_;
  int64_t num_replays_ = 0;
};

}  // namespace tessera::testing
