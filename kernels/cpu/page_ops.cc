#include "kernels/cpu/page_ops.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/base/log.h"
#include "kernels/cpu/page_row.h"
#include "kernels/cpu/rope_table.h"

namespace tessera::cpu {
namespace {

// The buffers of one task of the team.
struct Buffers {
  std::vector<float> cos, sin, key;
  std::vector<char> rows;
};

// A page op restricted to one layer and one KV head.
class HeadOp {
 public:
  HeadOp(const ApplyArgs& args, const PageOp& op, int layer, int head)
      : op_(op),
        layout_(args.layout->groups[static_cast<size_t>(op.group)]),
        pool_(args.pool),
        layer_(layer),
        head_(head) {}

  void Copy() const {
    ForEachArray([&](int64_t offset, int64_t bytes) {
      std::memmove(Head(op_.dst) + offset + op_.dst_token * bytes,
                   Head(op_.src) + offset + op_.src_token * bytes,
                   static_cast<size_t>(op_.num_tokens * bytes));
    });
  }

  // Rotates the keys only; they already contain the rotary embedding's attention factor.
  void RopeShift(int64_t half, Buffers* buffers) const {
    buffers->key.resize(static_cast<size_t>(layout_.head_dim));
    float* const key = buffers->key.data();
    const float* const cos = buffers->cos.data();
    const float* const sin = buffers->sin.data();
    for (int32_t t = 0; t < op_.num_tokens; ++t) {
      LoadKey(layout_, Head(op_.dst), op_.dst_token + t, key);
      for (int64_t i = 0; i < half; ++i) {
        const float a = key[i];
        const float b = key[i + half];
        key[i] = a * cos[i] - b * sin[i];
        key[i + half] = b * cos[i] + a * sin[i];
      }
      StoreKey(layout_, key, Head(op_.dst), op_.dst_token + t);
    }
  }

  // Copies the tokens `indices` of src to dst. Reads all of src before it writes, because src may
  // be dst.
  void Gather(const int32_t* indices, std::vector<char>* rows) const {
    ForEachArray([&](int64_t offset, int64_t bytes) {
      const char* const src = Head(op_.src) + offset;
      rows->assign(src, src + layout_.page_tokens * bytes);
      char* const dst = Head(op_.dst) + offset + op_.dst_token * bytes;
      for (int32_t t = 0; t < op_.num_tokens; ++t) {
        CHECK(indices[t] >= 0 && indices[t] < layout_.page_tokens) << indices[t];
        std::memcpy(dst + t * bytes, rows->data() + indices[t] * bytes, static_cast<size_t>(bytes));
      }
    });
  }

 private:
  // The start of the head's K.
  char* Head(PageId page) const { return pool_.Page(page) + layout_.HeadOffset(layer_, head_); }

  // Calls visit(bytes from Head(), bytes of an element) for the arrays of K and of V.
  template <class Visit>
  void ForEachArray(const Visit& visit) const {
    for (const int64_t part : {int64_t{0}, layout_.value_offset()}) {
      for (const GroupLayout::TokenArray& array : layout_.token_arrays()) {
        if (array.element_bytes > 0) visit(part + array.offset, array.element_bytes);
      }
    }
  }

  const PageOp& op_;
  const GroupLayout& layout_;
  const PoolView& pool_;
  const int layer_;
  const int head_;
};

void CheckOp(const ApplyArgs& args, const PageOp& op) {
  CHECK(op.group >= 0 && op.group < args.layout->num_groups()) << op.group;
  const GroupLayout& layout = args.layout->groups[static_cast<size_t>(op.group)];
  CHECK(op.layer_begin >= 0 && op.layer_end <= layout.num_layers);
  CHECK(op.num_tokens >= 0 && op.dst_token >= 0);
  CHECK_LE(op.dst_token + op.num_tokens, layout.page_tokens);
  CHECK(op.dst > kNullPage && op.dst < args.pool.num_slabs) << op.dst;
  if (op.kind == PageOpKind::kRopeShift) return;
  CHECK(op.src > kNullPage && op.src < args.pool.num_slabs) << op.src;
  if (op.kind == PageOpKind::kGather) return;
  CHECK(op.src_token >= 0);
  CHECK_LE(op.src_token + op.num_tokens, layout.page_tokens);
}

void ApplyToLayer(const ApplyArgs& args, const PageOp& op, int layer, Buffers* buffers) {
  const GroupLayout& layout = args.layout->groups[static_cast<size_t>(op.group)];
  const RopeSpec* rope = nullptr;
  if (op.kind == PageOpKind::kRopeShift) {
    rope = args.ropes[static_cast<size_t>(op.group)][static_cast<size_t>(layer)];
    if (rope == nullptr || rope->rotary_dim == 0) return;
    buffers->cos.resize(rope->inv_freq.size());
    buffers->sin.resize(rope->inv_freq.size());
    ComputeRotation(*rope, op.delta, 1.0f, buffers->cos.data(), buffers->sin.data());
  }
  for (int head = 0; head < layout.kv_heads; ++head) {
    const HeadOp head_op(args, op, layer, head);
    switch (op.kind) {
      case PageOpKind::kCopy:
        head_op.Copy();
        break;
      case PageOpKind::kRopeShift:
        head_op.RopeShift(rope->rotary_dim / 2, buffers);
        break;
      case PageOpKind::kGather: {
        const int64_t list = static_cast<int64_t>(layer) * layout.kv_heads + head;
        head_op.Gather(
            args.batch.data(args.batch.batch->indices) + op.index_begin + list * op.index_stride,
            &buffers->rows);
        break;
      }
    }
  }
}

}  // namespace

void ApplyPageOps(const ApplyArgs& args, ThreadTeam* team) {
  const StepBatch& batch = *args.batch.batch;
  const SlotUpdate* const updates = args.batch.data(batch.slot_updates);
  for (uint32_t i = 0; i < batch.slot_updates.count; ++i) {
    args.slot_tokens[updates[i].slot] = updates[i].token;
  }
  const PageOp* const ops = args.batch.data(batch.page_ops);
  int max_layers = 0;
  for (uint32_t i = 0; i < batch.page_ops.count; ++i) {
    CheckOp(args, ops[i]);
    max_layers = std::max(max_layers, ops[i].layer_end);
  }
  if (max_layers == 0) return;
  team->ParallelFor(max_layers, 1, [&](int64_t begin, int64_t end, int member) {
    Buffers buffers;
    for (int64_t layer = begin; layer < end; ++layer) {
      for (uint32_t i = 0; i < batch.page_ops.count; ++i) {
        if (layer < ops[i].layer_begin || layer >= ops[i].layer_end) continue;
        ApplyToLayer(args, ops[i], static_cast<int>(layer), &buffers);
      }
    }
  });
}

}  // namespace tessera::cpu
