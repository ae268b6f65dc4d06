// The reference backend: Linear, Embed and Logits. Other files define its attention and page ops.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "kernels/base/log.h"
#include "kernels/device/backend.h"
#include "kernels/device/comm.h"
#include "kernels/device/hidden_taps.h"
#include "kernels/ref/ref_lora.h"
#include "kernels/ref/ref_math.h"
#include "kernels/ref/ref_weight.h"
#include "kernels/sample/sample.h"

namespace tessera {
namespace {

struct FreeDeleter {
  void operator()(void* data) const { std::free(data); }
};
using Memory = std::unique_ptr<char, FreeDeleter>;

Memory AllocateZeroed(size_t bytes) {
  return Memory(static_cast<char*>(std::calloc(std::max<size_t>(bytes, 1), 1)));
}

class RefBuffer final : public DeviceBuffer {
 public:
  RefBuffer(Memory memory, size_t size) : memory_(std::move(memory)), size_(size) {}
  void* data() override { return memory_.get(); }
  size_t size() const override { return size_; }

 private:
  Memory memory_;
  size_t size_;
};

const ref::RefWeight& AsRef(const PackedWeight* weight) {
  return *static_cast<const ref::RefWeight*>(weight);
}

class RefBackend final : public Backend {
 public:
  explicit RefBackend(Comm* comm) : comm_(comm) {}

  std::string name() const override { return "ref"; }

  std::unique_ptr<DeviceBuffer> Allocate(size_t bytes) override {
    Memory memory = AllocateZeroed(bytes);
    if (memory == nullptr) return nullptr;
    return std::make_unique<RefBuffer>(std::move(memory), bytes);
  }

  std::unique_ptr<PackedWeight> Pack(const std::vector<WeightView>& parts,
                                     const WeightFormat& format, bool interleave_gate) override {
    return ref::RefWeight::Create(parts, format, interleave_gate);
  }
  void Upload(const void* from, void* to_device, size_t bytes) override {
    if (bytes > 0) std::memcpy(to_device, from, bytes);
  }
  void Download(const void* from_device, void* to, size_t bytes) override {
    if (bytes > 0) std::memcpy(to, from_device, bytes);
  }
  // The reference backend keeps no working memory from step to step, so its plan is empty.
  WorkPlan Plan(const BatchView& /*batch*/, const StepShape& /*shape*/) const override {
    return {};
  }
  bool Reserve(const WorkPlan& /*plan*/) override { return true; }
  void BeginStep(const BatchView& batch, const StepShape& shape, const WorkPlan& plan) override;
  void Apply(const ApplyArgs& args) override { ref::Apply(args); }
  void Embed(const EmbedArgs& args) override;
  void Linear(const LinearArgs& args) override;
  void Attention(const AttentionArgs& args) override { ref::Attention(args); }
  void TapHidden(const HiddenTapArgs& args) override { WriteHiddenTaps(args); }
  void Logits(const LogitsArgs& args) override;
  void Sample(const SampleArgs& args) override {
    BeginSample(args);
    SampleRows(args, 0, args.num_rows, &sample_scratch_);
    EndSample(args);
  }

 private:
  // normed_ := the row after the norm. y_ := the weight times normed_.
  void NormAndMultiply(const float* x, const NormArgs& norm, const ref::RefWeight& weight);

  Comm* const comm_;  // null: one rank
  std::vector<float> normed_;
  std::vector<float> x_;
  std::vector<float> y_;
  SampleScratch sample_scratch_;
};

// The reference backend prepares nothing here; it checks the batch instead.
void RefBackend::BeginStep(const BatchView& view, const StepShape& /*shape*/,
                           const WorkPlan& /*plan*/) {
  const StepBatch& batch = *view.batch;
  CHECK_EQ(batch.positions.count, batch.tokens.count);
  CHECK_EQ(batch.write_places.count, batch.tokens.count * batch.num_groups);
  CHECK_EQ(batch.run_ranges.count, batch.segments.count * batch.num_groups);
  int32_t row = 0;
  for (int32_t s = 0; s < view.num_segments(); ++s) {
    CHECK_EQ(view.segments()[s].token_begin, row);
    CHECK_GT(view.segments()[s].num_tokens, 0);
    row += view.segments()[s].num_tokens;
  }
  CHECK_EQ(row, view.num_tokens());
  for (uint32_t i = 0; i < batch.run_ranges.count; ++i) {
    const Range& range = view.data(batch.run_ranges)[i];
    CHECK(range.begin >= 0 && range.count >= 0 &&
          range.begin + range.count <= static_cast<int32_t>(batch.runs.count));
  }
  for (uint32_t i = 0; i < batch.runs.count; ++i) {
    const KvRun& run = view.runs()[i];
    CHECK(run.count >= 0 && run.first >= 0 && run.pos_begin >= 0);
    CHECK(run.page_begin >= 0 && run.num_pages >= 0 &&
          run.page_begin + run.num_pages <= static_cast<int32_t>(batch.pages.count));
    CHECK_GT(run.temperature, 0.0f);
  }
}

void RefBackend::Embed(const EmbedArgs& args) {
  const ref::RefWeight& table = AsRef(args.table);
  const TokenId* tokens = args.batch.tokens();
  for (int32_t s = 0; s < args.batch.num_segments(); ++s) {
    const Segment& segment = args.batch.segments()[s];
    for (int32_t i = 0; i < segment.num_tokens; ++i) {
      const int32_t row = segment.token_begin + i;
      const TokenId token =
          tokens[row] == kLastSampledToken ? args.slot_tokens[segment.slot] : tokens[row];
      CHECK(token >= 0 && token < table.rows()) << "token " << token;
      float* const out = args.out.f32(row);
      table.LoadRow(token, out);
      for (int64_t k = 0; k < table.cols(); ++k) out[k] *= args.scale;
    }
  }
}

void RefBackend::NormAndMultiply(const float* x, const NormArgs& norm,
                                 const ref::RefWeight& weight) {
  normed_.resize(weight.cols());
  y_.resize(weight.PaddedRows());
  ref::RmsNorm(norm, x, weight.cols(), normed_.data());
  x_ = normed_;
  weight.Multiply(x_.data(), y_.data());
}

void RefBackend::Linear(const LinearArgs& args) {
  const ref::RefWeight& weight = AsRef(args.weight);
  const int64_t n = weight.rows();
  const bool gated = args.epilogue == Epilogue::kGatedAct;
  CHECK_EQ(args.x.cols, weight.cols());
  CHECK_EQ(args.out.rows, args.x.rows);
  CHECK_EQ(args.out.cols, gated ? n / 2 : n);
  CHECK(!gated || args.post_norm.weight == nullptr);
  for (int64_t row = 0; row < args.x.rows; ++row) {
    NormAndMultiply(args.x.f32(row), args.pre_norm, weight);
    if (args.lora.num_parts > 0) {
      ref::AddLora(args.lora, row, normed_.data(), weight.cols(), gated, y_.data());
    }
    float* out = args.out.f32(row);
    if (gated) {
      const float* bias = args.bias;
      for (int64_t i = 0; i < n / 2; ++i) {
        const float gate = bias == nullptr ? y_[2 * i] : y_[2 * i] + bias[i];
        const float up = bias == nullptr ? y_[2 * i + 1] : y_[2 * i + 1] + bias[n / 2 + i];
        out[i] = ref::Activate(args.activation, gate) * up;
      }
      continue;
    }
    if (args.all_reduce && comm_ != nullptr) comm_->AllReduceSum(y_.data(), n);
    for (int64_t i = 0; i < n && args.bias != nullptr; ++i) y_[i] += args.bias[i];
    ref::RmsNorm(args.post_norm, y_.data(), n, y_.data());
    for (int64_t i = 0; i < n; ++i) {
      out[i] = args.epilogue == Epilogue::kResidualAdd ? out[i] + y_[i] : y_[i];
    }
  }
}

void RefBackend::Logits(const LogitsArgs& args) {
  CHECK_LE(args.num_rows, kLogitBlock);
  const ref::RefWeight& weight = AsRef(args.weight);
  for (int64_t r = 0; r < args.num_rows; ++r) {
    NormAndMultiply(args.hidden.f32(args.token_rows[r]), args.final_norm, weight);
    for (int64_t i = 0; i < weight.rows(); ++i) {
      args.out.f32(r)[i] = ref::Softcap(args.softcap, y_[i]);
    }
  }
}

}  // namespace

std::unique_ptr<Backend> NewRefBackend(Comm* comm) { return std::make_unique<RefBackend>(comm); }

}  // namespace tessera
