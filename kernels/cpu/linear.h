// Linear and Logits on packed weights. At most two fork-joins: rows are normed and rounded (by the
// caller alone when they are few), then the GEMM with its epilogue; a post norm adds a third. Which
// rows and panels a member computes never shows in a result. Owned by the backend; rank thread.
#pragma once

#include "kernels/base/thread_team.h"
#include "kernels/cpu/isa_kernels.h"
#include "kernels/cpu/lora.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/packed_weight.h"
#include "kernels/cpu/work_ranges.h"
#include "kernels/device/backend.h"
#include "kernels/device/comm.h"

namespace tessera::cpu {

class LinearOp final {
 public:
  LinearOp(const IsaKernels& kernels, ThreadTeam* team, Comm* comm, GrowthCount* num_grown)
      : kernels_(kernels),
        team_(team),
        comm_(comm),
        work_(team),
        lora_(kernels, team, num_grown),
        prepared_(num_grown),
        before_norm_(num_grown) {}

  bool Reserve(const WorkPlan& plan) {
    return prepared_.Reserve(plan.Bytes(WorkPart::kRows)) &&
           before_norm_.Reserve(plan.Bytes(WorkPart::kOutputs)) && lora_.Reserve(plan);
  }
  void BeginStep(const BatchView& batch) { lora_.BeginStep(batch); }

  void Linear(const LinearArgs& args);
  void Logits(const LogitsArgs& args);

 private:
  // Rows of x: [rows][i], or i itself when null.
  struct Rows {
    Tensor x;
    const int32_t* rows = nullptr;
    int64_t count = 0;

    const float* row(int64_t i) const { return x.f32(rows == nullptr ? i : rows[i]); }
  };

  // Points the problem's `a` at rows that the kernels can read. `adapted`: the linear whose
  // adapters read them too, or null.
  void PrepareRows(const Rows& rows, const NormArgs& norm, const CpuWeight& weight,
                   const LinearArgs* adapted, GemmProblem* problem);
  void RunGemm(const CpuWeight& weight, int64_t num_rows, const GemmProblem& problem);
  // What follows the sum over all ranks: bias, then the epilogue. `y` is [rows, out.cols].
  void FinishReduced(const LinearArgs& args, float* y);
  void PostNorm(const LinearArgs& args, const float* y);

  const IsaKernels& kernels_;
  ThreadTeam* const team_;
  Comm* const comm_;  // null: one rank
  WorkRanges work_;
  LoraOp lora_;
  Scratch prepared_;
  Scratch before_norm_;
};

}  // namespace tessera::cpu
