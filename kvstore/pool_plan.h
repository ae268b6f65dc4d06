// Plans how the page pool of one device is divided: one slab size for the pages of all its models,
// and for each model the tokens and slabs of a page. It is planned once, before the pool exists.
//
// Plain values, used while a device is assembled; any thread.
#pragma once

#include <cstdint>
#include <vector>

namespace tessera {

inline constexpr int32_t kMaxSlabsPerPage = 64;

// Equal models get their page as the slab; unequal ones get the slab size, page_tokens and
// slabs_per_page that waste least.
struct PoolPlan {
  int64_t slab_bytes = 0;  // a multiple of 64
  // [models] 8 to 64, multiples of 4; 16 unless another number fills its slabs clearly better
  std::vector<int32_t> page_tokens;
  std::vector<int32_t> slabs_per_page;  // [models] powers of two up to kMaxSlabsPerPage
};

// `page_bytes_at_16`: [models] bytes of a page of 16 tokens in the model's largest group. Pages
// whose sizes are within a factor of 100 of each other waste at most 12 % each, and about 2 % on
// average.
PoolPlan PlanPool(const std::vector<int64_t>& page_bytes_at_16);

}  // namespace tessera
