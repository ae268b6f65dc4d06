// Splits a model's layers into KV groups with equally many layers, so that all KV pages of the
// model have the same number of bytes and can share one page pool. Pure functions; any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/model/model_spec.h"

namespace tessera {

struct KvGrouping {
  // The groups of one kind of layer are consecutive; kinds are in the order of their first layers.
  std::vector<KvGroupSpec> groups;
  std::vector<int32_t> group;           // [layers], index in `groups`
  std::vector<int32_t> layer_in_group;  // [layers]
};

// Groups the layers by kind. `windows` [layers] is each layer's kind: its sliding window in tokens,
// 0 for full attention. Consecutive layers of one kind fill a group; the last group of a kind may
// be padded with unused layers. A padding layer wastes its share of every page of its group; a
// group costs a page table, KV runs and an append in every step. The function chooses the group
// size with the lowest cost, and counts one group as 2 % of the bytes of all layers. Examples:
//   layers of two kinds   groups
//   ratio 1 : 1           2
//   ratio 5 : 1           6
//   22 and 4              7 groups of 4 layers; 2 of the 28 layers are padding
KvGrouping GroupLayers(const std::vector<int32_t>& windows);

}  // namespace tessera
