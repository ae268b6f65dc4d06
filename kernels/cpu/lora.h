// The adapters of a step on the cpu: which rows share one, and A x for every linear ahead of its
// GEMM, which adds B z tile by tile. One fork-join a linear, none without adapters. Owned
// by the backend; rank thread.
#pragma once

#include <vector>

#include "kernels/base/thread_team.h"
#include "kernels/cpu/isa_kernels.h"
#include "kernels/cpu/memory.h"
#include "kernels/device/backend.h"

namespace tessera::cpu {

class LoraOp final {
 public:
  LoraOp(const IsaKernels& kernels, ThreadTeam* team, GrowthCount* num_grown)
      : kernels_(kernels), team_(team), normed_(num_grown), z_(num_grown) {}

  bool Reserve(const WorkPlan& plan) {
    return normed_.Reserve(plan.Bytes(WorkPart::kAdapterRows)) &&
           z_.Reserve(plan.Bytes(WorkPart::kAdapterSums));
  }

  // Finds the runs of rows that share an adapter.
  void BeginStep(const BatchView& batch);
  // A linear, in this order. Which of the step's adapters touch it:
  void Begin(const LinearArgs& args);
  // The rows that they read, each once, by any thread (as rows of the linear itself are prepared):
  void PrepareRow(const LinearArgs& args, int64_t row) const;
  // z of all rows with such an adapter. Null when there is none; else valid until the next Begin.
  const LoraProblem* Shrink();

 private:
  // A piece of a part's z.
  struct Task {
    int32_t run = 0;
    int32_t part = 0;
    int32_t row_begin = 0;
    int32_t row_end = 0;
    int32_t rank_begin = 0;
    int32_t rank_end = 0;
  };
  struct StepRun {
    int32_t row_begin = 0;
    int32_t row_end = 0;
    int32_t adapter = 0;
  };

  // Fills runs_; returns the most z of a row.
  int32_t FindParts(const LinearArgs& args);
  void AddTasks(int32_t run, int32_t part);

  const IsaKernels& kernels_;
  ThreadTeam* const team_;
  std::vector<StepRun> step_runs_;
  std::vector<int32_t> row_runs_;  // [rows]
  std::vector<LoraRun> runs_;      // of the current linear, as step_runs_
  std::vector<Task> tasks_;
  int32_t z_stride_ = 0;  // 0: no adapter touches the linear
  Tensor x_;              // its rows, normed where the linear says so
  Scratch normed_;
  Scratch z_;
  LoraProblem problem_;
};

}  // namespace tessera::cpu
