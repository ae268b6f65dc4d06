// Numbers for the names of tenants, small enough to index arrays. A tenant without requests keeps
// its number, so that it also keeps its account (TenantAccounts) and gains nothing by leaving. Of
// more than kMaxKnown tenants, those that leave are forgotten, and their numbers are used again.
//
// Owned by the engine core; engine thread only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace tessera {

class TenantNumbers final {
 public:
  static constexpr size_t kMaxKnown = 4096;

  // Counts a request of the tenant. Returns the tenant's number, and whether it is new.
  std::pair<int32_t, bool> Enter(const std::string& name) {
    const auto [it, is_new] = known_.try_emplace(name);
    Tenant& tenant = it->second;
    ++tenant.num_requests;
    if (!is_new) return {tenant.number, false};
    if (free_.empty()) {
      tenant.number = static_cast<int32_t>(known_.size()) - 1;
    } else {
      tenant.number = free_.back();
      free_.pop_back();
    }
    return {tenant.number, true};
  }
  // A request that Enter has counted has ended.
  void Leave(const std::string& name) {
    const auto it = known_.find(name);
    if (--it->second.num_requests > 0 || known_.size() <= kMaxKnown) return;
    free_.push_back(it->second.number);
    known_.erase(it);
  }

 private:
  struct Tenant {
    int32_t number = 0;
    int64_t num_requests = 0;
  };

  absl::flat_hash_map<std::string, Tenant> known_;
  std::vector<int32_t> free_;  // numbers that may be used again
};

}  // namespace tessera
