// Attention by its definition, in fp64: without blocks, without merges of streams and independent
// of the order of pages. Tests compare the reference backend with this code. Pure functions.
#pragma once

#include <vector>

#include "tests/lib/op_fixtures.h"

namespace tessera::testing {

struct NaiveAttention {
  std::vector<float> out;                 // [T, heads * head_dim]
  std::vector<float> lse;                 // [T, heads]
  std::vector<std::vector<double>> mass;  // [T][keys of the row's segment], summed over heads
  std::vector<double> value_deviation;    // [T]
  std::vector<float> keys;                // [T, kv_heads * head_dim], rounded as in the pages
  std::vector<float> values;              // [T, kv_heads * head_dim], rounded as in the pages
};

// Does not change the pool.
NaiveAttention ComputeNaiveAttention(BuiltBatch* built, int group, int layer_in_group);

// Returns the K (part 0) or V (part 1) vector of a token in a page.
std::vector<float> ReadHead(BuiltBatch* built, int group, int layer_in_group, PageId page,
                            int token, int kv_head, int part);

}  // namespace tessera::testing
