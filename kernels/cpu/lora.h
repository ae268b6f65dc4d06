// LoraOp computes the LoRA products of a step. It finds the rows that share an adapter and, before
// the GEMM of each linear, computes z = scale * (A x) in one fork-join. The GEMM adds B z to each
// tile of its outputs. Without adapters there is no fork-join. The backend owns the op; rank
// thread, except PrepareRow.
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
  // For each linear the caller calls Begin, then PrepareRow for each row, then Shrink. Begin finds
  // the step's adapters that change the linear.
  void Begin(const LinearArgs& args);
  // Applies the linear's norm to a row if an adapter needs it. Any thread; once per row.
  void PrepareRow(const LinearArgs& args, int64_t row) const;
  // Computes z of all rows with an adapter of this linear. The result is valid until the next
  // Begin; null if there is no such row.
  const LoraProblem* Shrink();

 private:
  // A range of rows and ranks of one part's z.
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

  // Fills runs_. Returns the largest number of elements of z that a row has.
  int32_t FindParts(const LinearArgs& args);
  void AddTasks(int32_t run, int32_t part);

  const IsaKernels& kernels_;
  ThreadTeam* const team_;
  std::vector<StepRun> step_runs_;
  std::vector<int32_t> row_runs_;  // [rows] index into runs_; -1: the row has no adapter
  std::vector<LoraRun> runs_;      // [step_runs_.size()] the runs, for the current linear
  std::vector<Task> tasks_;
  int32_t z_stride_ = 0;  // 0: no adapter changes the linear
  Tensor x_;              // rows of the linear, after its norm if it has one
  Scratch normed_;
  Scratch z_;
  LoraProblem problem_;
};

}  // namespace tessera::cpu
