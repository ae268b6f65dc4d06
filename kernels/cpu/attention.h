// AttentionOp computes attention over paged KV in two fork-joins. The first writes the step's K and
// V to pages (the calling thread alone if there are few rows), the second computes attention. Once
// per tile of query rows, a block's keys are transposed, and its V is packed on ISAs with a bf16
// dot product; all query heads of the KV head use the result. The backend owns the AttentionOp;
// only the rank thread calls it.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "kernels/base/thread_team.h"
#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/attention_work.h"
#include "kernels/cpu/isa_kernels.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/rope_table.h"
#include "kernels/device/backend.h"

namespace tessera::cpu {

class AttentionOp final {
 public:
  AttentionOp(const IsaKernels& kernels, ThreadTeam* team, GrowthCount* num_grown);

  bool Reserve(const WorkPlan& plan);
  // Forgets what was computed for the last batch.
  void BeginStep();
  void Run(const AttentionArgs& args);

 private:
  // The tasks for one KV group and one shape of a layer. All layers of a step with this group and
  // shape use the same tasks.
  struct CachedWork {
    int32_t group = 0;
    int32_t heads = 0;
    int32_t kv_heads = 0;
    int32_t window = 0;
    AttentionWork work;
  };

  const AttentionWork& FindWork(const AttentionArgs& args);
  void Append(const AttentionArgs& args, const RopeTables::Table& rope);
  void AppendRow(const AttentionArgs& args, const RopeTables::Table& rope, int64_t row);
  AttentionCall NewCall(const AttentionArgs& args, const RopeTables::Table& rope);
  void Attend(const AttentionCall& call);

  // These functions, defined in attention_taps.cc, write the taps (optional outputs of a step,
  // TapKind). Run calls these functions only if args.taps is not null.
  void TapValueDeviation(const AttentionArgs& args);
  void TapLogSumExp(const AttentionArgs& args, const float* lse);
  void TapAttentionMass(const AttentionCall& call);

  const IsaKernels& kernels_;
  ThreadTeam* const team_;
  RopeTables ropes_;
  size_t num_works_ = 0;  // number of entries of works_ that this step uses
  std::vector<std::unique_ptr<CachedWork>> works_;    // kept from step to step for their memory
  std::vector<std::unique_ptr<TileWorker>> workers_;  // [members of the team]
  Scratch partials_;
  Scratch lse_;
  std::unique_ptr<std::atomic<int32_t>[]> pieces_left_;
  int32_t pieces_left_size_ = 0;
  std::vector<double> mass_;  // [tiles, tap blocks] attention mass
};

}  // namespace tessera::cpu
