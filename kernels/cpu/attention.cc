#include "kernels/cpu/attention.h"

#include <algorithm>

#include "kernels/base/log.h"
#include "kernels/cpu/work_plan.h"
#include "kernels/device/key_rotation.h"

namespace tessera::cpu {
namespace {

// With fewer elements, a separate fork-join takes longer than appending on the calling thread.
constexpr int64_t kAppendAloneElements = 4096;

bool TapsLse(const AttentionArgs& args) {
  bool found = false;
  if (args.taps == nullptr) return false;
  ForEachTap(args.batch, TapKind::kLogSumExp, args.layer, args.heads, 0, args.taps,
             [&found](const Tap& tap, float* out) { found = true; });
  return found;
}

}  // namespace

AttentionOp::AttentionOp(const IsaKernels& kernels, ThreadTeam* team, GrowthCount* num_grown)
    : kernels_(kernels),
      team_(team),
      ropes_(team, num_grown),
      partials_(num_grown),
      lse_(num_grown) {
  for (int m = 0; m < team->num_threads(); ++m) {
    workers_.push_back(std::make_unique<TileWorker>(kernels, num_grown));
  }
}

bool AttentionOp::Reserve(const WorkPlan& plan) {
  for (const std::unique_ptr<TileWorker>& worker : workers_) {
    if (!worker->Reserve(plan)) return false;
  }
  return ropes_.Reserve(plan) && partials_.Reserve(plan.Bytes(WorkPart::kPartials)) &&
         lse_.Reserve(plan.Bytes(WorkPart::kLogSumExps));
}

void AttentionOp::BeginStep() {
  ropes_.BeginStep();
  num_works_ = 0;
}

const AttentionWork& AttentionOp::FindWork(const AttentionArgs& args) {
  const GroupLayout& layout = *args.layout;
  for (size_t i = 0; i < num_works_; ++i) {
    const CachedWork& cached = *works_[i];
    if (cached.group == args.group && cached.heads == args.heads &&
        cached.kv_heads == layout.kv_heads && cached.window == layout.window) {
      return cached.work;
    }
  }
  if (num_works_ == works_.size()) works_.push_back(std::make_unique<CachedWork>());
  CachedWork& fresh = *works_[num_works_++];
  fresh.group = args.group;
  fresh.heads = args.heads;
  fresh.kv_heads = layout.kv_heads;
  fresh.window = layout.window;
  const int64_t partial_bytes = PartialFloats(layout.head_dim) * int64_t{sizeof(float)};
  fresh.work.Build(args.batch, args.group, layout, args.heads / layout.kv_heads,
                   team_->num_threads(), partials_.size() / partial_bytes / kPanel * kPanel);
  return fresh.work;
}

void AttentionOp::AppendRow(const AttentionArgs& args, const RopeTables::Table& rope, int64_t row) {
  const GroupLayout& layout = *args.layout;
  const int64_t place = args.batch.write_places(args.group)[row];
  if (place < layout.page_tokens) return;  // a padding row: the null page is never read
  const PageId page = static_cast<PageId>(place / layout.page_tokens);
  CHECK_LT(page, args.pool.num_slabs);
  const int32_t token = static_cast<int32_t>(place % layout.page_tokens);
  const float* const keys = args.qkv.f32(row) + static_cast<int64_t>(args.heads) * layout.head_dim;
  AppendProblem problem;
  problem.k_norm = args.k_norm.weight;
  problem.k_norm_eps = args.k_norm.eps;
  problem.cos = rope.cos + row * rope.half;
  problem.sin = rope.sin + row * rope.half;
  problem.rotary_dim = static_cast<int32_t>(2 * rope.half);
  problem.head_dim = layout.head_dim;
  problem.element = ElementOf(layout.dtype);
  problem.key_rotation = KeyRotation(layout);
  problem.row_bytes = layout.row_bytes();
  for (int32_t h = 0; h < layout.kv_heads; ++h) {
    char* const head = args.pool.Page(page) + layout.HeadOffset(args.layer_in_group, h);
    problem.k = keys + static_cast<int64_t>(h) * layout.head_dim;
    problem.v = problem.k + static_cast<int64_t>(layout.kv_heads) * layout.head_dim;
    problem.k_out = head + token * problem.row_bytes;
    problem.v_out = head + layout.value_offset() + token * problem.row_bytes;
    if (layout.quantized()) {
      problem.k_scale_out = head + layout.scales_offset() + token * GroupLayout::kScaleBytes;
      problem.v_scale_out = static_cast<char*>(problem.k_scale_out) + layout.value_offset();
    }
    kernels_.append_head(problem);
  }
}

void AttentionOp::Append(const AttentionArgs& args, const RopeTables::Table& rope) {
  const int64_t row_elements = static_cast<int64_t>(args.layout->kv_heads) * args.layout->head_dim;
  const int64_t grain = std::max<int64_t>(1, kAppendAloneElements / row_elements);
  team_->ParallelFor(args.batch.num_tokens(), grain, [&](int64_t begin, int64_t end, int member) {
    for (int64_t row = begin; row < end; ++row) AppendRow(args, rope, row);
  });
}

AttentionCall AttentionOp::NewCall(const AttentionArgs& args, const RopeTables::Table& rope) {
  AttentionCall call;
  call.args = &args;
  call.work = &FindWork(args);
  call.rope = rope;
  call.heads_per_kv = args.heads / args.layout->kv_heads;
  call.padded_dim = RoundUp(args.layout->head_dim, kPanel);
  call.key_rotation = KeyRotation(*args.layout);
  const int64_t cells = RoundUp<int64_t>(call.work->num_partials(), kPanel);
  call.partial_max = partials_.Floats(cells * PartialFloats(args.layout->head_dim));
  call.partial_sum = call.partial_max + cells;
  call.partial_out = call.partial_sum + cells;
  if (call.work->num_cut_tiles() > pieces_left_size_) {
    pieces_left_size_ = 2 * call.work->num_cut_tiles();
    pieces_left_.reset(new std::atomic<int32_t>[static_cast<size_t>(pieces_left_size_)]);
  }
  call.pieces_left = pieces_left_.get();
  for (const AttentionTile& tile : call.work->tiles()) {
    if (tile.cut < 0) continue;
    call.pieces_left[tile.cut].store(tile.num_pieces, std::memory_order_relaxed);
  }
  return call;
}

void AttentionOp::Attend(const AttentionCall& call) {
  for (const std::unique_ptr<TileWorker>& worker : workers_) worker->Prepare(call);
  const std::vector<AttentionTask>& tasks = call.work->tasks();
  team_->ParallelFor(
      static_cast<int64_t>(tasks.size()), 1, [&](int64_t begin, int64_t end, int member) {
        for (int64_t i = begin; i < end; ++i) {
          workers_[static_cast<size_t>(member)]->RunTask(call, tasks[static_cast<size_t>(i)]);
        }
      });
}

void AttentionOp::Run(const AttentionArgs& args) {
  const GroupLayout& layout = *args.layout;
  CHECK_EQ(args.heads % layout.kv_heads, 0);
  CHECK(layout.dtype == DType::kF32 || layout.dtype == DType::kBF16 || layout.quantized())
      << DTypeName(layout.dtype);
  CHECK_LE(layout.head_dim, kMaxHeadDim);
  if (args.batch.num_tokens() == 0) return;
  RopeTables::Table rope;
  if (args.rope != nullptr && args.rope->rotary_dim > 0) rope = ropes_.Get(args.rope, args.batch);
  if (args.taps != nullptr) TapValueDeviation(args);
  Append(args, rope);
  AttentionCall call = NewCall(args, rope);
  const bool taps_lse = TapsLse(args);
  if (taps_lse) {
    call.lse = lse_.Floats(static_cast<int64_t>(args.batch.num_tokens()) * args.heads);
  }
  Attend(call);
  if (taps_lse) TapLogSumExp(args, call.lse);
  if (args.taps != nullptr) TapAttentionMass(call);
}

}  // namespace tessera::cpu
