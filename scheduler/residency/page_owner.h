// Whoever holds pages that may be taken away: cached prefixes, idle adapters, later chunks. Room is
// made by asking all owners what their cheapest pages are worth and by telling the cheapest owner
// to give them up (residency.h). The order among one owner's pages is the owner's business.
//
// Engine thread only.
#pragma once

#include <cstdint>
#include <optional>

namespace tessera {

class PageOwner {
 public:
  virtual ~PageOwner() = default;

  // What keeping the cheapest pages is worth: microseconds that it costs to bring a slab of them
  // back, times how often they were used, divided by how long they have been idle
  // (KvManager::ticks). `model`: whose page size is asked for. Nothing when the owner has no such
  // pages.
  virtual std::optional<double> LeastWorth(int32_t model) const = 0;
  // Frees the pages that LeastWorth speaks of. REQUIRES: it has some.
  virtual void GiveUp(int32_t model) = 0;
};

}  // namespace tessera
