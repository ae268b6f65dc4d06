// Attention written as its definition reads, in fp64 and without blocks, streams' merges or pages'
// order: what judges the reference backend.
#pragma once

#include <vector>

#include "tests/lib/op_fixtures.h"

namespace tessera::testing {

struct NaiveAttention {
  std::vector<float> out;                 // [T, heads * head_dim]
  std::vector<float> lse;                 // [T, heads]
  std::vector<std::vector<double>> mass;  // [T][keys of the row's segment], summed over heads
  std::vector<double> value_deviation;    // [T]
  std::vector<float> keys;                // [T, kv_heads * head_dim]: as the pages hold them
  std::vector<float> values;              // likewise
};

// Does not change the pool.
NaiveAttention ComputeNaiveAttention(BuiltBatch* built, int group, int layer_in_group);

// The K (part 0) or V (part 1) vector of a token in a page.
std::vector<float> ReadHead(BuiltBatch* built, int group, int layer_in_group, PageId page,
                            int token, int kv_head, int part);

}  // namespace tessera::testing
