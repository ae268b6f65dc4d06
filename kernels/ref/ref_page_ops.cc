// The reference backend's slot updates and page ops.
#include <cstring>
#include <vector>

#include "kernels/base/log.h"
#include "kernels/device/backend.h"
#include "kernels/ref/ref_math.h"

namespace tessera::ref {
namespace {

void Copy(const GroupLayout& layout, const PoolView& pool, const PageOp& op, int layer, int head) {
  for (const int64_t part : {int64_t{0}, layout.value_offset()}) {
    for (const GroupLayout::TokenArray& array : layout.token_arrays()) {
      const int64_t offset = layout.HeadOffset(layer, head) + part + array.offset;
      char* dst = pool.Page(op.dst) + offset + op.dst_token * array.element_bytes;
      const char* src = pool.Page(op.src) + offset + op.src_token * array.element_bytes;
      std::memmove(dst, src, op.num_tokens * array.element_bytes);
    }
  }
}

// Rotates the keys only; they already contain the rotary embedding's attention factor.
void RopeShift(const GroupLayout& layout, const PoolView& pool, const PageOp& op, int layer,
               int head, const Rotation& rotation) {
  for (int32_t t = 0; t < op.num_tokens; ++t) {
    char* keys = pool.Page(op.dst) + layout.HeadOffset(layer, head);
    std::vector<float> key = LoadPageKey(layout, keys, op.dst_token + t);
    Rotate(rotation, key.data());
    StorePageKey(layout, key.data(), keys, op.dst_token + t);
  }
}

// Copies the tokens `indices` of src to dst. Reads all of src before it writes, because src may be
// dst.
void Gather(const GroupLayout& layout, const PoolView& pool, const PageOp& op, int layer, int head,
            const int32_t* indices) {
  for (const int64_t part : {int64_t{0}, layout.value_offset()}) {
    const int64_t offset = layout.HeadOffset(layer, head) + part;
    const char* src = pool.Page(op.src) + offset;
    const std::vector<char> old(src, src + layout.head_stride());
    char* dst = pool.Page(op.dst) + offset;
    for (int32_t t = 0; t < op.num_tokens; ++t) {
      CHECK(indices[t] >= 0 && indices[t] < layout.page_tokens);
      for (const GroupLayout::TokenArray& array : layout.token_arrays()) {
        std::memcpy(dst + array.offset + (op.dst_token + t) * array.element_bytes,
                    old.data() + array.offset + indices[t] * array.element_bytes,
                    array.element_bytes);
      }
    }
  }
}

void CheckOp(const ApplyArgs& args, const PageOp& op) {
  CHECK(op.group >= 0 && op.group < args.layout->num_groups());
  const GroupLayout& layout = args.layout->groups[op.group];
  CHECK(op.layer_begin >= 0 && op.layer_end <= layout.num_layers);
  CHECK(op.num_tokens >= 0 && op.dst_token >= 0 &&
        op.dst_token + op.num_tokens <= layout.page_tokens);
  CHECK(op.dst > kNullPage && op.dst < args.pool.num_slabs);
  if (op.kind == PageOpKind::kRopeShift) return;
  CHECK(op.src > kNullPage && op.src < args.pool.num_slabs);
  if (op.kind == PageOpKind::kGather) return;
  CHECK(op.src_token >= 0 && op.src_token + op.num_tokens <= layout.page_tokens);
}

void ApplyToHead(const ApplyArgs& args, const PageOp& op, int layer, int head) {
  const GroupLayout& layout = args.layout->groups[op.group];
  switch (op.kind) {
    case PageOpKind::kCopy:
      return Copy(layout, args.pool, op, layer, head);
    case PageOpKind::kRopeShift:
      return RopeShift(layout, args.pool, op, layer, head,
                       RotationAt(*args.ropes[op.group][layer], op.delta, 1.0f));
    case PageOpKind::kGather: {
      const int64_t list = static_cast<int64_t>(layer) * layout.kv_heads + head;
      return Gather(
          layout, args.pool, op, layer, head,
          args.batch.data(args.batch.batch->indices) + op.index_begin + list * op.index_stride);
    }
  }
}

}  // namespace

void Apply(const ApplyArgs& args) {
  const StepBatch& batch = *args.batch.batch;
  const SlotUpdate* updates = args.batch.data(batch.slot_updates);
  for (uint32_t i = 0; i < batch.slot_updates.count; ++i) {
    args.slot_tokens[updates[i].slot] = updates[i].token;
  }
  for (uint32_t i = 0; i < batch.page_ops.count; ++i) {
    const PageOp& op = args.batch.data(batch.page_ops)[i];
    CheckOp(args, op);
    for (int layer = op.layer_begin; layer < op.layer_end; ++layer) {
      for (int head = 0; head < args.layout->groups[op.group].kv_heads; ++head) {
        ApplyToHead(args, op, layer, head);
      }
    }
  }
}

}  // namespace tessera::ref
