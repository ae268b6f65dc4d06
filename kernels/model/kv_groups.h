// Splits a model's layers into KV groups of equal size, so that all its pages have the same bytes
// (see architecture.md: one pool of equal byte pages). Pure functions.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/model/model_spec.h"

namespace tessera {

struct KvGrouping {
  std::vector<KvGroupSpec> groups;  // of one kind behind one another, kinds as they first appear
  std::vector<int32_t> group;       // [layers]
  std::vector<int32_t> layer_in_group;  // [layers]
};

// `windows` [layers] is each layer's kind: its sliding window in tokens, 0 for full attention.
// Layers of one kind are dealt into groups in order; a kind's last group may be padded. A padded
// layer costs its share of every page; a group costs a page table, runs and an append per step. One
// group is taken to be worth 2 % of a page, and the cheapest size wins: 1 : 1 gives two groups, 5 :
// 1 six, 22 : 4 seven of four layers (two of them padding).
KvGrouping GroupLayers(const std::vector<int32_t>& windows);

}  // namespace tessera
