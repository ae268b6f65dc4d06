// cos and sin per token row of a step, computed once per RopeSpec and shared by the layers that use
// it. Rank thread.
#pragma once

#include <memory>
#include <vector>

#include "kernels/base/thread_team.h"
#include "kernels/cpu/memory.h"
#include "kernels/device/backend.h"

namespace tessera::cpu {

// cos and sin (times `factor`) of the angles of one position, `stride` floats of room each.
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

  // Forgets the tables of the last step.
  void BeginStep() { num_tables_ = 0; }
  const Table& Get(const RopeSpec* rope, const BatchView& batch);

 private:
  ThreadTeam* const team_;
  GrowthCount* const num_grown_;
  size_t num_tables_ = 0;  // of this step; the memory of the others waits
  std::vector<Table> tables_;
  std::vector<std::unique_ptr<Scratch>> memory_;  // of tables_, and of more that are set aside
};

}  // namespace tessera::cpu
