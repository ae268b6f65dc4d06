// The layout of K and V in a page; no other code computes it. A page holds `page_tokens` tokens of
// the layers of one KV group. The pages of all groups of a model have the same size: a page is
// `slabs_per_page` slabs of the pool.
//
// A page is an array [layer of the group][K, V][kv_head][token] of rows. A row has head_dim numbers
// in `dtype`. A layout is constant after start-up; any thread.
//
// An int8 row has [head_dim] codes (signed bytes), zeros up to the next multiple of 4 bytes, and
// the row's scale (fp32). The row's numbers are code[d] * scale. K (normed and rotated) and V are
// quantised when they are appended. Each row is quantised alone, by the rule for rows of
// activations (kernels/device/weight_format.h): with m = max |x[d]|,
//   code[d] = round(x[d] * (127 / m)), to nearest, ties to even      scale = m / 127
// As in that rule, a row of tiny numbers becomes zeros, and a row that is not finite has the scale
// NaN. Rotating keys in their pages (PageOpKind::kRopeShift) quantises them again, which moves each
// number by at most half a quantisation step, max |k| / 254.
//
// The scale is part of its row, so code that copies, gathers or prefetches rows need not handle it
// separately, and the scale needs no cache line of its own. Rows are aligned to 4 bytes and are
// read by unaligned loads.
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
  // The sliding window in tokens: a query at position p attends to keys at positions > p - window.
  // 0: the query attends to all keys at positions <= p.
  int32_t window = 0;
  // The number of padding layers, which are the last layers of num_layers: the model does not have
  // them, but its last group is padded to the size of its other groups. No step writes the rows of
  // padding layers.
  int32_t num_padding_layers = 0;

  static constexpr int64_t kScaleBytes = 4;

  int32_t num_used_layers() const { return num_layers - num_padding_layers; }
  bool quantized() const { return dtype == DType::kI8; }
  // The number of bytes from the start of a row to its scale. REQUIRES: quantized().
  int64_t scale_offset() const { return RoundUp<int64_t>(head_dim, kScaleBytes); }
  // The number of bytes from the row of one token to the row of the next token, for one head.
  int64_t token_stride() const {
    return quantized() ? scale_offset() + kScaleBytes : head_dim * DTypeBytes(dtype);
  }
  int64_t head_stride() const { return page_tokens * token_stride(); }
  int64_t value_offset() const { return kv_heads * head_stride(); }
  int64_t layer_stride() const { return 2 * value_offset(); }
  int64_t page_bytes() const { return num_layers * layer_stride(); }
  // The byte offset in a page of the K row of (layer of the group, kv head, token in the page). The
  // V row is value_offset() bytes after it.
  int64_t KeyOffset(int layer, int head, int token) const {
    return layer * layer_stride() + head * head_stride() + token * token_stride();
  }
};

struct PageLayout {
  std::vector<GroupLayout> groups;  // all groups have the same page_tokens
  int32_t slabs_per_page = 1;       // a power of two
  int64_t slab_bytes = 0;

  int32_t page_tokens() const { return groups.empty() ? 0 : groups[0].page_tokens; }
  int32_t num_groups() const { return static_cast<int32_t>(groups.size()); }
  int64_t page_bytes() const { return slab_bytes * slabs_per_page; }
};

// The memory of one device's pool: num_slabs slabs of slab_bytes from `base`. Slab 0 is the first
// slab of the null page.
struct PoolView {
  char* base = nullptr;
  int64_t slab_bytes = 0;
  int64_t num_slabs = 0;

  char* Page(PageId page) const { return base + page * slab_bytes; }
};

}  // namespace tessera
