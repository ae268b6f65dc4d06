// RopeTables holds cos and sin of the rotary embedding's angles for each token row of a step. A
// table is computed once per step and RopeSpec, and all layers with that RopeSpec use it.
// AttentionOp owns the RopeTables; only the rank thread calls them.
#pragma once

#include <memory>
#include <vector>

#include "kernels/base/thread_team.h"
#include "kernels/cpu/memory.h"
#include "kernels/device/backend.h"

namespace tessera::cpu {

// Computes cos and sin, times `factor`, of the angles at one position. `cos` and `sin` are
// [rope.rotary_dim / 2].
void ComputeRotation(const RopeSpec& rope, int32_t position, float factor, float* cos, float* sin);

class RopeTables final {
 public:
  struct Table {
    const RopeSpec* rope = nullptr;
    int64_t half = 0;            // rotary_dim / 2
    const float* cos = nullptr;  // [T, half]
    const float* sin = nullptr;
  };

  RopeTables(ThreadTeam* team, GrowthCount* num_grown) : team_(team), num_grown_(num_grown) {}

  bool Reserve(const WorkPlan& plan);

  // Discards the tables of the last step.
  void BeginStep() { num_tables_ = 0; }
  // Returns the table of `rope`, and computes it if it is new in this step. The reference is valid
  // until the next call.
  const Table& Get(const RopeSpec* rope, const BatchView& batch);

 private:
  ThreadTeam* const team_;
  GrowthCount* const num_grown_;
  size_t num_tables_ = 0;  // number of entries of tables_ that this step uses
  std::vector<Table> tables_;
  // The memory of the entries of tables_, and memory that Reserve has reserved for further entries.
  std::vector<std::unique_ptr<Scratch>> memory_;
};

}  // namespace tessera::cpu
