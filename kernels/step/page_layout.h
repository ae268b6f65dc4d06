// Where K and V lie in a page: the only place that knows. A page holds `page_tokens` tokens of the
// layers of one KV group. All pages of a model have the same bytes, whatever their group; a page is
// `slabs_per_page` slabs of the pool.
//
// Inside a page: [layer of the group][K, V][kv_head][token], a row of head_dim numbers in `dtype`
// each. Constant after start-up; any thread.
//
// Int8 rows: [head_dim] codes (signed bytes), zeros up to the next multiple of 4 bytes, the row's
// scale (fp32). The row's numbers are code[d] * scale. K (normed and rotated) and V are quantised
// when they are appended, each row for itself, as rows of activations are
// (kernels/device/weight_format.h): with m = max |x[d]|,
//   code[d] = round(x[d] * (127 / m)), to nearest, ties to even      scale = m / 127
// with the same rule for tiny rows (zeros) and for rows that are not finite (the scale is NaN).
// Rotating keys in their pages (PageOpKind::kRopeShift) quantises them anew: every time, a number
// moves by up to half a step, max |k| / 254.
//
// The scale lies in its row, so what copies, gathers or prefetches rows need not know of it and it
// costs no cache line of its own; rows are aligned to 4 bytes, which unaligned loads take as they
// come.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/base/types.h"

namespace tessera {

struct GroupLayout {
  int32_t num_layers = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t page_tokens = 16;
  DType dtype = DType::kF32;
  // Sliding window in tokens: a query at position p sees keys at positions > p - window. 0: all of
  // them.
  int32_t window = 0;
  // The last layers of num_layers that the model does not have: the last group of a model is padded
  // to the others' size. Nothing writes their rows.
  int32_t num_padding_layers = 0;

  static constexpr int64_t kScaleBytes = 4;

  int32_t num_used_layers() const { return num_layers - num_padding_layers; }
  bool quantized() const { return dtype == DType::kI8; }
  // Of a row, from its begin. REQUIRES: quantized().
  int64_t scale_offset() const { return RoundUp<int64_t>(head_dim, kScaleBytes); }
  // Bytes from one token's K row (of one head) to the next token's.
  int64_t token_stride() const {
    return quantized() ? scale_offset() + kScaleBytes : head_dim * DTypeBytes(dtype);
  }
  int64_t head_stride() const { return page_tokens * token_stride(); }
  int64_t value_offset() const { return kv_heads * head_stride(); }
  int64_t layer_stride() const { return 2 * value_offset(); }
  int64_t page_bytes() const { return num_layers * layer_stride(); }
  // Byte offset of K of (layer of the group, kv head, token in page); V lies value_offset() behind
  // it.
  int64_t KeyOffset(int layer, int head, int token) const {
    return layer * layer_stride() + head * head_stride() + token * token_stride();
  }
};

struct PageLayout {
  std::vector<GroupLayout> groups;  // equal page_tokens
  int32_t slabs_per_page = 1;       // a power of two
  int64_t slab_bytes = 0;

  int32_t page_tokens() const { return groups.empty() ? 0 : groups[0].page_tokens; }
  int32_t num_groups() const { return static_cast<int32_t>(groups.size()); }
  int64_t page_bytes() const { return slab_bytes * slabs_per_page; }
};

// The memory of one device's pool: num_slabs slabs of slab_bytes from `base`; slab 0 is the null
// page's first.
struct PoolView {
  char* base = nullptr;
  int64_t slab_bytes = 0;
  int64_t num_slabs = 0;

  char* Page(PageId page) const { return base + page * slab_bytes; }
};

}  // namespace tessera
