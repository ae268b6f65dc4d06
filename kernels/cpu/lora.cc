#include "kernels/cpu/lora.h"

#include <algorithm>

#include "kernels/base/log.h"
#include "kernels/cpu/element_of.h"

namespace tessera::cpu {
namespace {

// The most rows and ranks of a task. The task's rows of x fit in the L2 cache, its ranks of A in
// the L1 cache.
constexpr int32_t kTaskRows = 64;
constexpr int32_t kTaskRanks = 8;
constexpr int64_t kGrainsPerMember = 8;

LoraTiles TilesOf(const LoraArgs& lora, const PageId* pages, const TileRun& run) {
  LoraTiles tiles;
  tiles.pool = lora.pool.base;
  tiles.slab_bytes = lora.pool.slab_bytes;
  tiles.pages = pages + run.page;
  tiles.offset = run.offset;
  tiles.tile_bytes = run.tile_bytes;
  tiles.in_first = static_cast<int32_t>((lora.page_bytes - run.offset) / run.tile_bytes);
  tiles.per_page = static_cast<int32_t>(lora.page_bytes / run.tile_bytes);
  return tiles;
}

}  // namespace

void LoraOp::BeginStep(const BatchView& batch) {
  step_runs_.clear();
  if (batch.batch->adapters.count == 0) return;
  row_runs_.assign(static_cast<size_t>(batch.num_tokens()), -1);
  for (int32_t s = 0; s < batch.num_segments(); ++s) {
    const Segment& segment = batch.segments()[s];
    if (segment.adapter < 0) continue;
    CHECK_LT(segment.adapter, static_cast<int32_t>(batch.batch->adapters.count));
    const bool joins = !step_runs_.empty() && step_runs_.back().adapter == segment.adapter &&
                       step_runs_.back().row_end == segment.token_begin;
    if (!joins) step_runs_.push_back({segment.token_begin, segment.token_begin, segment.adapter});
    step_runs_.back().row_end += segment.num_tokens;
    std::fill_n(row_runs_.begin() + segment.token_begin, segment.num_tokens,
                static_cast<int32_t>(step_runs_.size()) - 1);
  }
}

int32_t LoraOp::FindParts(const LinearArgs& args) {
  const LoraArgs& lora = args.lora;
  const BatchView& batch = lora.batch;
  const bool gated = args.epilogue == Epilogue::kGatedAct;
  int32_t most = 0;
  runs_.resize(step_runs_.size());
  for (size_t r = 0; r < step_runs_.size(); ++r) {
    const BatchAdapter& adapter = batch.data(batch.batch->adapters)[step_runs_[r].adapter];
    const PageId* const pages = batch.pages() + adapter.page_begin;
    const LoraMatrices* const matrices = batch.data(batch.batch->lora_matrices) +
                                         adapter.matrix_begin + lora.layer * kNumLoraTargets;
    LoraRun& run = runs_[r];
    run.row_begin = step_runs_[r].row_begin;
    run.row_end = step_runs_[r].row_end;
    run.num_parts = 0;
    int32_t first_panel = 0;
    int32_t z = 0;
    for (int32_t p = 0; p < lora.num_parts; ++p) {
      const int32_t num_panels = CeilDiv(lora.part_rows[p], kPanel);
      const LoraMatrices& of_target = matrices[static_cast<int>(lora.targets[p])];
      if (of_target.rank > 0) {
        LoraPart& part = run.parts[run.num_parts++];
        part.rank = of_target.rank;
        part.first_panel = gated ? p : first_panel;
        part.panel_step = gated ? 2 : 1;
        part.num_panels = num_panels;
        part.z_begin = z;
        part.element = ElementOf(adapter.dtype);
        part.a = TilesOf(lora, pages, of_target.a);
        part.b = TilesOf(lora, pages, of_target.b);
        z += of_target.rank;
      }
      first_panel += num_panels;
    }
    most = std::max(most, z);
  }
  return most;
}

void LoraOp::AddTasks(int32_t run, int32_t part) {
  const LoraRun& of = runs_[static_cast<size_t>(run)];
  const int32_t rank = of.parts[part].rank;
  for (int32_t row = of.row_begin; row < of.row_end; row += kTaskRows) {
    for (int32_t i = 0; i < rank; i += kTaskRanks) {
      tasks_.push_back({run, part, row, std::min(row + kTaskRows, of.row_end), i,
                        std::min(i + kTaskRanks, rank)});
    }
  }
}

void LoraOp::Begin(const LinearArgs& args) {
  z_stride_ = step_runs_.empty() || args.lora.num_parts == 0 ? 0 : FindParts(args);
  x_ = args.x;
  if (z_stride_ == 0 || args.pre_norm.weight == nullptr) return;
  const int64_t stride = RoundUp<int64_t>(args.x.cols, kPanel);
  x_ = Tensor::F32(normed_.Floats(args.x.rows * stride), args.x.rows, args.x.cols);
  x_.row_stride = stride;
}

void LoraOp::PrepareRow(const LinearArgs& args, int64_t row) const {
  if (z_stride_ == 0 || args.pre_norm.weight == nullptr) return;
  if (row_runs_[static_cast<size_t>(row)] < 0) return;
  kernels_.prepare_row(args.x.f32(row), args.pre_norm.weight, args.pre_norm.eps, x_.cols, x_.cols,
                       false, x_.f32(row));
}

const LoraProblem* LoraOp::Shrink() {
  if (z_stride_ == 0) return nullptr;
  float* const z = z_.Floats(x_.rows * z_stride_);
  tasks_.clear();
  for (size_t r = 0; r < runs_.size(); ++r) {
    for (int32_t p = 0; p < runs_[r].num_parts; ++p) AddTasks(static_cast<int32_t>(r), p);
  }
  // Consecutive tasks read neighbouring memory, so a member takes several of them at a time.
  const int64_t num_tasks = static_cast<int64_t>(tasks_.size());
  const int64_t grain = std::max<int64_t>(1, num_tasks / (kGrainsPerMember * team_->num_threads()));
  team_->ParallelFor(num_tasks, grain, [&](int64_t begin, int64_t end, int member) {
    for (int64_t i = begin; i < end; ++i) {
      const Task& task = tasks_[static_cast<size_t>(i)];
      LoraShrinkProblem problem;
      problem.x = x_.f32(task.row_begin);
      problem.x_stride = x_.row_stride;
      problem.rows = task.row_end - task.row_begin;
      problem.cols = x_.cols;
      problem.part = &runs_[static_cast<size_t>(task.run)].parts[task.part];
      problem.rank_begin = task.rank_begin;
      problem.rank_end = task.rank_end;
      problem.z = z + task.row_begin * z_stride_;
      problem.z_stride = z_stride_;
      kernels_.lora_shrink(problem);
    }
  });
  problem_ = {row_runs_.data(), runs_.data(), z, z_stride_};
  return &problem_;
}

}  // namespace tessera::cpu
