#include "kernels/model/kv_groups.h"

#include <algorithm>

#include "kernels/base/types.h"

namespace tessera {
namespace {

// The cost of a group, in percent of the model's number of layers.
constexpr int64_t kGroupCostPercent = 2;

struct Kind {
  int32_t window = 0;
  int32_t num_layers = 0;
};

std::vector<Kind> CountKinds(const std::vector<int32_t>& windows) {
  std::vector<Kind> kinds;
  for (const int32_t window : windows) {
    const auto same = [window](const Kind& kind) { return kind.window == window; };
    auto it = std::find_if(kinds.begin(), kinds.end(), same);
    if (it == kinds.end()) it = kinds.insert(it, Kind{window, 0});
    ++it->num_layers;
  }
  return kinds;
}

int32_t BestGroupSize(const std::vector<Kind>& kinds, int64_t num_layers) {
  int32_t largest = 0;
  for (const Kind& kind : kinds) largest = std::max(largest, kind.num_layers);
  int32_t best = 1;
  int64_t best_cost = INT64_MAX;
  for (int32_t size = 1; size <= largest; ++size) {
    int64_t num_groups = 0;
    for (const Kind& kind : kinds) num_groups += CeilDiv(kind.num_layers, size);
    const int64_t padding = num_groups * size - num_layers;
    const int64_t cost = 100 * padding + kGroupCostPercent * num_groups * num_layers;
    if (cost > best_cost) continue;
    best = size;
    best_cost = cost;
  }
  return best;
}

}  // namespace

KvGrouping GroupLayers(const std::vector<int32_t>& windows) {
  const std::vector<Kind> kinds = CountKinds(windows);
  const int32_t size = BestGroupSize(kinds, static_cast<int64_t>(windows.size()));
  KvGrouping grouping;
  grouping.group.resize(windows.size());
  grouping.layer_in_group.resize(windows.size());
  for (const Kind& kind : kinds) {
    const int32_t first_group = static_cast<int32_t>(grouping.groups.size());
    int32_t index = 0;
    for (size_t layer = 0; layer < windows.size(); ++layer) {
      if (windows[layer] != kind.window) continue;
      grouping.group[layer] = first_group + index / size;
      grouping.layer_in_group[layer] = index % size;
      ++index;
    }
    grouping.groups.resize(first_group + CeilDiv(index, size), KvGroupSpec{size, kind.window});
  }
  return grouping;
}

}  // namespace tessera
