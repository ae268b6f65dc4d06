// The layout of K and V in a page; no other code computes it. A page holds `page_tokens` tokens of
// the layers of one KV group. The pages of all groups of a model have the same size: a page is
// `slabs_per_page` slabs of the pool.
//
// A page is an array [layer of the group][K, V][kv_head] of heads. A head is an array [token] of
// rows, and for int8 an array [token] of scales (fp32) after it. A row has head_dim numbers in
// `dtype`. A layout is constant after start-up; any thread.
//
// An int8 row has [head_dim] codes (signed bytes) and zeros up to the next multiple of 16 bytes, so
// that whole vectors (or a GPU's tensor cores) can load the rows of a head. The row's numbers are
// code[d] * scale. Each row is quantised alone when it is appended, by the rule for rows of
// activations (kernels/device/weight_format.h): with m = max |x[d]|,
//   code[d] = round(x[d] * (127 / m)), to nearest, ties to even      scale = m / 127
// As in that rule, a row of tiny numbers becomes zeros, and a row that is not finite has the scale
// NaN. The numbers of a V row are the value. The numbers of an int8 K row are the key after its
// norm and rotary embedding, multiplied by a Hadamard matrix (kernels/device/key_rotation.h),
// because a few channels of keys are many times larger than the others and would take the scale.
// Shifting keys in their pages (PageOpKind::kRopeShift) quantises them again, which moves each
// number of the row by at most half a quantisation step, m / 254.
#pragma once

#include <array>
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
  static constexpr int64_t kCodeAlign = 16;

  int32_t num_used_layers() const { return num_layers - num_padding_layers; }
  bool quantized() const { return dtype == DType::kI8; }
  // The number of bytes of a row without its scale, and from one token's row to the next token's.
  int64_t row_bytes() const {
    return quantized() ? RoundUp<int64_t>(head_dim, kCodeAlign) : head_dim * DTypeBytes(dtype);
  }
  int64_t scale_bytes() const { return quantized() ? kScaleBytes : 0; }
  // The number of bytes that a token takes in one head, for K or for V.
  int64_t token_bytes() const { return row_bytes() + scale_bytes(); }
  // The number of bytes from the start of a head to its scales. REQUIRES: quantized().
  int64_t scales_offset() const { return page_tokens * row_bytes(); }
  int64_t head_stride() const { return page_tokens * token_bytes(); }
  int64_t value_offset() const { return kv_heads * head_stride(); }
  int64_t layer_stride() const { return 2 * value_offset(); }
  int64_t page_bytes() const { return num_layers * layer_stride(); }
  // The byte offset in a page of the K rows of (layer of the group, kv head). The V rows are
  // value_offset() bytes after them.
  int64_t HeadOffset(int layer, int head) const {
    return layer * layer_stride() + head * head_stride();
  }

  // The arrays of a head that have an element for each token: code that moves tokens moves the
  // elements of both. Without scales the second array has elements of 0 bytes.
  struct TokenArray {
    int64_t offset = 0;         // bytes from the start of the head
    int64_t element_bytes = 0;  // also from one element to the next
  };
  std::array<TokenArray, 2> token_arrays() const {
    return {{{0, row_bytes()}, {page_tokens * row_bytes(), scale_bytes()}}};
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
