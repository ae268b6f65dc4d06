// The cpu backend: forwards each op of Backend to the object or function that implements it. The
// per-ISA kernels are called through the table in isa_kernels.h.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/base/log.h"
#include "kernels/base/thread_team.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/packed_weight.h"
#include "kernels/cpu/page_ops.h"
#include "kernels/cpu/work_plan.h"
#include "kernels/device/backend.h"
#include "kernels/device/hidden_taps.h"
#include "kernels/sample/sample.h"

namespace tessera {
namespace cpu {
namespace {

class CpuBackend final : public Backend {
 public:
  CpuBackend(const IsaKernels& kernels, ThreadTeam* team, Comm* comm)
      : kernels_(kernels),
        team_(team),
        linear_(kernels, team, comm, &num_grown_),
        attention_(kernels, team, &num_grown_),
        sample_scratch_(static_cast<size_t>(team->num_threads()), SampleScratch{kernels.sample}) {}

  std::string name() const override { return std::string("cpu/") + kernels_.name; }

  std::unique_ptr<DeviceBuffer> Allocate(size_t bytes) override {
    return HugeBuffer::Create(bytes);
  }
  void Upload(const void* from, void* to_device, size_t bytes) override {
    if (bytes > 0) std::memcpy(to_device, from, bytes);
  }
  void Download(const void* from_device, void* to, size_t bytes) override {
    if (bytes > 0) std::memcpy(to, from_device, bytes);
  }
  std::unique_ptr<PackedWeight> Pack(const std::vector<WeightView>& parts,
                                     const WeightFormat& format, bool interleave_gate) override {
    return CpuWeight::Create(parts, format, interleave_gate, team_);
  }
  std::unique_ptr<PackedWeight> Restore(const std::vector<WeightView>& parts,
                                        const WeightFormat& format, bool interleave_gate,
                                        const FillPacked& fill) override {
    return CpuWeight::Restore(parts, format, interleave_gate, fill);
  }
  WorkPlan Plan(const BatchView& batch, const StepShape& shape) const override {
    return PlanWork(shape, BoundsOf(batch), team_->num_threads());
  }
  bool Reserve(const WorkPlan& plan) override {
    return linear_.Reserve(plan) && attention_.Reserve(plan);
  }
  void BeginStep(const BatchView& batch, const StepShape& /*shape*/,
                 const WorkPlan& plan) override {
    CHECK(Reserve(plan)) << " no memory for " << plan.total() << " bytes of working space";
    attention_.BeginStep();
    linear_.BeginStep(batch);
  }
  int64_t num_grown() const override { return num_grown_.load(std::memory_order_relaxed); }
  void Apply(const ApplyArgs& args) override { ApplyPageOps(args, team_); }
  void Embed(const EmbedArgs& args) override;
  void Linear(const LinearArgs& args) override { linear_.Linear(args); }
  void Attention(const AttentionArgs& args) override { attention_.Run(args); }
  void TapHidden(const HiddenTapArgs& args) override { WriteHiddenTaps(args); }
  void Logits(const LogitsArgs& args) override { linear_.Logits(args); }
  void Sample(const SampleArgs& args) override;

 private:
  const IsaKernels& kernels_;
  ThreadTeam* const team_;
  GrowthCount num_grown_{0};
  LinearOp linear_;
  AttentionOp attention_;
  std::vector<SampleScratch> sample_scratch_;  // [members]
  std::vector<TokenId> embed_tokens_;          // [T]
};

void CpuBackend::Embed(const EmbedArgs& args) {
  const CpuWeight& table = *static_cast<const CpuWeight*>(args.table);
  const TokenId* const tokens = args.batch.tokens();
  embed_tokens_.assign(tokens, tokens + args.batch.num_tokens());
  for (int32_t s = 0; s < args.batch.num_segments(); ++s) {
    const Segment& segment = args.batch.segments()[s];
    TokenId* const first = embed_tokens_.data() + segment.token_begin;
    for (TokenId& token : std::span(first, static_cast<size_t>(segment.num_tokens))) {
      if (token == kLastSampledToken) token = args.slot_tokens[segment.slot];
      CHECK(token >= 0 && token < table.rows()) << " token " << token;
    }
  }
  team_->ParallelFor(args.batch.num_tokens(), 4, [&](int64_t begin, int64_t end, int member) {
    for (int64_t row = begin; row < end; ++row) {
      table.GatherRow(embed_tokens_[static_cast<size_t>(row)], args.scale, args.out.f32(row));
    }
  });
}

void CpuBackend::Sample(const SampleArgs& args) {
  BeginSample(args);
  team_->ParallelFor(args.num_rows, 1, [&](int64_t begin, int64_t end, int member) {
    SampleRows(args, static_cast<int>(begin), static_cast<int>(end),
               &sample_scratch_[static_cast<size_t>(member)]);
  });
  EndSample(args);
}

}  // namespace
}  // namespace cpu

std::unique_ptr<Backend> NewCpuBackend(const std::string& isa, ThreadTeam* team, Comm* comm) {
  const cpu::IsaKernels* const kernels = cpu::FindKernels(isa);
  if (kernels == nullptr) return nullptr;
  return std::make_unique<cpu::CpuBackend>(*kernels, team, comm);
}

}  // namespace tessera
