// A page owner holds unused pages that may be evicted: cached prefixes or idle adapters. To make
// room, Residency (residency.h) compares the worth of the owners' cheapest pages and evicts the
// cheapest. Each owner chooses the order among its own pages.
//
// Owned by Residency or by the engine core; engine thread only.
#pragma once

#include <cstdint>
#include <optional>

namespace tessera {

class PageOwner {
 public:
  virtual ~PageOwner() = default;

  // The worth of the owner's cheapest pages: the microseconds to restore one slab of them, times
  // the number of their uses, divided by their idle time (in KvManager::ticks). `model` selects the
  // page size. Nothing if the owner has no pages to evict.
  virtual std::optional<double> LeastWorth(int32_t model) const = 0;
  // Frees the owner's cheapest pages. REQUIRES: LeastWorth(model) has a value.
  virtual void GiveUp(int32_t model) = 0;
};

}  // namespace tessera
