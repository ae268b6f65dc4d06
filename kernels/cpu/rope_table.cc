#include "kernels/cpu/rope_table.h"

#include <cmath>

namespace tessera::cpu {

void ComputeRotation(const RopeSpec& rope, int32_t position, float factor, float* cos, float* sin) {
  for (int32_t i = 0; i < rope.rotary_dim / 2; ++i) {
    const float angle = static_cast<float>(position) * rope.inv_freq[static_cast<size_t>(i)];
    cos[i] = static_cast<float>(std::cos(static_cast<double>(angle))) * factor;
    sin[i] = static_cast<float>(std::sin(static_cast<double>(angle))) * factor;
  }
}

bool RopeTables::Reserve(const WorkPlan& plan) {
  const auto count = static_cast<size_t>(plan.num_parts[static_cast<size_t>(WorkPart::kRotations)]);
  while (memory_.size() < count) memory_.push_back(std::make_unique<Scratch>(num_grown_));
  for (size_t i = 0; i < count; ++i) {
    if (!memory_[i]->Reserve(plan.Bytes(WorkPart::kRotations))) return false;
  }
  return true;
}

const RopeTables::Table& RopeTables::Get(const RopeSpec* rope, const BatchView& batch) {
  for (size_t i = 0; i < num_tables_; ++i) {
    if (tables_[i].rope == rope) return tables_[i];
  }
  if (num_tables_ == tables_.size()) tables_.emplace_back();
  if (num_tables_ == memory_.size()) memory_.push_back(std::make_unique<Scratch>(num_grown_));
  const int64_t half = rope->rotary_dim / 2;
  const int64_t num_tokens = batch.num_tokens();
  float* const cos = memory_[num_tables_]->Floats(2 * num_tokens * half);
  float* const sin = cos + num_tokens * half;
  const int32_t* const positions = batch.positions();
  team_->ParallelFor(num_tokens, 16, [&](int64_t begin, int64_t end, int member) {
    for (int64_t row = begin; row < end; ++row) {
      ComputeRotation(*rope, positions[row], rope->attention_factor, cos + row * half,
                      sin + row * half);
    }
  });
  tables_[num_tables_] = {rope, half, cos, sin};
  return tables_[num_tables_++];
}

}  // namespace tessera::cpu
