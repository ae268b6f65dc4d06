#include "tests/lib/fake_device.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/base/log.h"

namespace tessera::testing {
namespace {

constexpr size_t kPage = 4096;

template <class T>
size_t EndOf(ArenaSpan<T> span) {
  return span.offset + span.count * sizeof(T);
}

// The number of bytes of a batch's arena up to the end of the last span.
size_t ArenaBytes(const StepBatch& b) {
  return std::max({EndOf(b.tokens), EndOf(b.positions), EndOf(b.write_places), EndOf(b.segments),
                   EndOf(b.run_ranges), EndOf(b.runs), EndOf(b.pages), EndOf(b.adapters),
                   EndOf(b.lora_matrices), EndOf(b.sampler_rows), EndOf(b.biases), EndOf(b.counts),
                   EndOf(b.masks), EndOf(b.taps), EndOf(b.page_ops), EndOf(b.indices),
                   EndOf(b.slot_updates)});
}

uint64_t Mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0xff51afd7ed558ccdull;
  return hash ^ (hash >> 29);
}

}  // namespace

class FakeDevice::Buffer final : public DeviceBuffer {
 public:
  Buffer(FakeDevice* device, void* outside, void* inside, size_t size, size_t mapped)
      : device_(device), outside_(outside), inside_(inside), size_(size), mapped_(mapped) {}
  ~Buffer() override {
    {
      const std::lock_guard<std::mutex> lock(device_->mutex_);
      device_->buffers_.erase(static_cast<const char*>(outside_));
    }
    munmap(outside_, mapped_);
    munmap(inside_, mapped_);
  }
  void* data() override { return outside_; }
  size_t size() const override { return size_; }

 private:
  FakeDevice* const device_;
  void* const outside_;
  void* const inside_;
  const size_t size_;
  const size_t mapped_;
};

std::unique_ptr<DeviceBuffer> FakeDevice::Allocate(size_t bytes) {
  const size_t mapped = RoundUp(std::max<size_t>(bytes, 1), kPage);
  const int file = memfd_create("fake_device", MFD_CLOEXEC);
  CHECK_GE(file, 0);
  CHECK_EQ(ftruncate(file, static_cast<off_t>(mapped)), 0);
  void* const outside = mmap(nullptr, mapped, PROT_NONE, MAP_SHARED, file, 0);
  void* const inside = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  CHECK(outside != MAP_FAILED && inside != MAP_FAILED);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    buffers_[static_cast<const char*>(outside)] = {mapped, static_cast<char*>(inside)};
  }
  return std::make_unique<Buffer>(this, outside, inside, bytes, mapped);
}

void* FakeDevice::Translate(void* device) const {
  if (device == nullptr) return nullptr;
  const std::lock_guard<std::mutex> lock(mutex_);
  auto it = buffers_.upper_bound(static_cast<const char*>(device));
  CHECK(it != buffers_.begin()) << "a host pointer where device memory is asked for";
  --it;
  const auto offset = static_cast<size_t>(static_cast<const char*>(device) - it->first);
  CHECK_LE(offset, it->second.first) << "a host pointer where device memory is asked for";
  return it->second.second + offset;
}

Tensor FakeDevice::Inside(const Tensor& tensor) const {
  Tensor inside = tensor;
  inside.data = Translate(tensor.data);
  return inside;
}

NormArgs FakeDevice::Inside(const NormArgs& norm) const { return {Inside(norm.weight), norm.eps}; }

PoolView FakeDevice::Inside(const PoolView& pool) const {
  return {Inside(pool.base), pool.slab_bytes, pool.num_slabs};
}

BatchView FakeDevice::Uploaded(const BatchView& batch) const {
  CHECK(batch.base == batch_base_) << "an op's batch is not the one that the step began with";
  return {&batch_, arena_.data()};
}

void FakeDevice::Upload(const void* from, void* to_device, size_t bytes) {
  if (bytes > 0) std::memcpy(Inside(to_device), from, bytes);
}

void FakeDevice::Download(const void* from_device, void* to, size_t bytes) {
  if (bytes > 0) std::memcpy(to, Inside(from_device), bytes);
}

void FakeDevice::BeginStep(const BatchView& batch, const StepShape& shape, const WorkPlan& plan) {
  for (size_t i = 0; i < kNumWorkParts && reserved_.total() > 0; ++i) {
    CHECK_LE(plan.bytes[i] * plan.num_parts[i], reserved_.bytes[i] * reserved_.num_parts[i])
        << "a step takes more of part " << i << " than was set aside";
  }
  batch_base_ = batch.base;
  batch_ = *batch.batch;
  arena_.assign(batch.base, batch.base + ArenaBytes(batch_));
  inner_->BeginStep(Uploaded(batch), shape, plan);
}

void FakeDevice::Apply(const ApplyArgs& args) {
  ApplyArgs inside = args;
  inside.batch = Uploaded(args.batch);
  inside.pool = Inside(args.pool);
  inside.slot_tokens = Inside(args.slot_tokens);
  inner_->Apply(inside);
}

void FakeDevice::Embed(const EmbedArgs& args) {
  EmbedArgs inside = args;
  inside.batch = Uploaded(args.batch);
  inside.slot_tokens = Inside(args.slot_tokens);
  inside.out = Inside(args.out);
  inner_->Embed(inside);
}

void FakeDevice::Linear(const LinearArgs& args) {
  Record({args.x.data, args.weight, args.bias, args.out.data, args.pre_norm.weight,
          args.post_norm.weight, args.lora.pool.base},
         args.lora.layer * 8 + static_cast<int64_t>(args.epilogue));
  LinearArgs inside = args;
  inside.x = Inside(args.x);
  inside.pre_norm = Inside(args.pre_norm);
  inside.post_norm = Inside(args.post_norm);
  inside.bias = Inside(args.bias);
  inside.out = Inside(args.out);
  if (args.lora.num_parts > 0) {
    inside.lora.batch = Uploaded(args.lora.batch);
    inside.lora.pool = Inside(args.lora.pool);
  }
  inner_->Linear(inside);
}

void FakeDevice::Attention(const AttentionArgs& args) {
  Record({args.qkv.data, args.out.data, args.pool.base, args.taps, args.rope, args.q_norm.weight,
          args.k_norm.weight},
         int64_t{args.group} * 4096 + args.layer_in_group);
  AttentionArgs inside = args;
  inside.batch = Uploaded(args.batch);
  inside.qkv = Inside(args.qkv);
  inside.out = Inside(args.out);
  inside.q_norm = Inside(args.q_norm);
  inside.k_norm = Inside(args.k_norm);
  inside.pool = Inside(args.pool);
  inside.taps = Inside(args.taps);
  inner_->Attention(inside);
}

void FakeDevice::TapHidden(const HiddenTapArgs& args) {
  HiddenTapArgs inside = args;
  inside.batch = Uploaded(args.batch);
  inside.hidden = Inside(args.hidden);
  inside.norm = Inside(args.norm);
  inside.taps = Inside(args.taps);
  inner_->TapHidden(inside);
}

void FakeDevice::Logits(const LogitsArgs& args) {
  LogitsArgs inside = args;
  inside.hidden = Inside(args.hidden);
  inside.token_rows = Inside(args.token_rows);
  inside.final_norm = Inside(args.final_norm);
  inside.out = Inside(args.out);
  inner_->Logits(inside);
}

void FakeDevice::Sample(const SampleArgs& args) {
  SampleArgs inside = args;
  inside.batch = Uploaded(args.batch);
  inside.logits = Inside(args.logits);
  inside.slot_tokens = Inside(args.slot_tokens);
  inside.rows = Inside(args.rows);
  inside.top = Inside(args.top);
  inner_->Sample(inside);
}

void FakeDevice::Record(const std::vector<const void*>& addresses, int64_t number) {
  for (const void* address : addresses) issued_ = Mix(issued_, reinterpret_cast<uint64_t>(address));
  issued_ = Mix(issued_, static_cast<uint64_t>(number));
}

void FakeDevice::RunLayers(const GraphKey& key, const std::function<void()>& body) {
  issued_ = 1;
  body();
  const auto it = std::find_if(keys_.begin(), keys_.end(),
                               [&key](const auto& known) { return known.first == key; });
  if (it == keys_.end()) {
    keys_.emplace_back(key, issued_);
    return;
  }
  CHECK_EQ(it->second, issued_) << "equal graph keys, other ops";
  ++num_replays_;
}

}  // namespace tessera::testing
