// LinearOp computes Linear and Logits with packed weights in at most two fork-joins. The first
// applies the norm to the rows and rounds or quantises them (the calling thread alone if there are
// few rows), the second runs the GEMM with its epilogue. A post norm adds a third. Results do not
// depend on the rows and panels that a member computes. The backend owns the op; rank thread.
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
        row_values_(num_grown),
        before_norm_(num_grown) {}

  bool Reserve(const WorkPlan& plan) {
    return prepared_.Reserve(plan.Bytes(WorkPart::kRows)) &&
           row_values_.Reserve(plan.Bytes(WorkPart::kRowValues)) &&
           before_norm_.Reserve(plan.Bytes(WorkPart::kOutputs)) && lora_.Reserve(plan);
  }
  void BeginStep(const BatchView& batch) { lora_.BeginStep(batch); }

  void Linear(const LinearArgs& args);
  void Logits(const LogitsArgs& args);

 private:
  // The rows of a GEMM: row i is row rows[i] of x, or row i of x if `rows` is null.
  struct Rows {
    Tensor x;
    const int32_t* rows = nullptr;
    int64_t count = 0;

    const float* row(int64_t i) const { return x.f32(rows == nullptr ? i : rows[i]); }
  };

  // Prepares the rows for the weight's format and sets problem->a to them. `adapted` is the linear
  // whose adapters also need the rows, or null.
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
  Scratch row_values_;  // a row for each member
  Scratch before_norm_;
};

}  // namespace tessera::cpu
