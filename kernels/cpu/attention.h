// Attention over paged KV. One fork-join appends the step's K and V (the caller alone when rows are
// few), one attends. A block's keys are transposed (and its V packed, where the ISA wants that)
// once per tile of query rows and used by all query heads of their kv head. Owned by the backend;
// rank thread.
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
  // Tasks depend on the group's runs and the layer's shape, so layers of a step share them.
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

  // attention_taps.cc. Nothing of it runs unless args.taps is there.
  void TapValueDeviation(const AttentionArgs& args);
  void TapLogSumExp(const AttentionArgs& args, const float* lse);
  void TapAttentionMass(const AttentionCall& call);

  const IsaKernels& kernels_;
  ThreadTeam* const team_;
  RopeTables ropes_;
  size_t num_works_ = 0;  // of this step; the memory of the others waits
  std::vector<std::unique_ptr<CachedWork>> works_;
  std::vector<std::unique_ptr<TileWorker>> workers_;  // [members]
  Scratch partials_;
  Scratch lse_;
  std::unique_ptr<std::atomic<int32_t>[]> pieces_left_;
  int32_t pieces_left_size_ = 0;
  std::vector<double> mass_;  // [tiles, tap blocks]
};

}  // namespace tessera::cpu
