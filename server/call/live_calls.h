// The Inference calls of the server: their request ids and their numbers. A request id that a call
// of the same tenant has already is refused, and Control.Cancel finds calls by their request id.
// Any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace tessera {

class LiveCalls final {
 public:
  // Returns false when another open call of the tenant has this request id.
  bool Register(const std::string& tenant, const std::string& request_id, uint64_t call) {
    std::lock_guard<std::mutex> lock(mutex_);
    return by_name_[request_id].try_emplace(tenant, call).second;
  }
  // Frees the request id if `call` holds it.
  void Unregister(const std::string& tenant, const std::string& request_id, uint64_t call) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto named = by_name_.find(request_id);
    if (named == by_name_.end()) return;
    const auto it = named->second.find(tenant);
    if (it == named->second.end() || it->second != call) return;
    named->second.erase(it);
    if (named->second.empty()) by_name_.erase(named);
  }
  // The calls of all tenants with this request id.
  std::vector<uint64_t> Find(const std::string& request_id) const {
    std::lock_guard<std::mutex> lock(mutex_);
    std::vector<uint64_t> calls;
    const auto named = by_name_.find(request_id);
    if (named == by_name_.end()) return calls;
    for (const auto& [tenant, call] : named->second) calls.push_back(call);
    return calls;
  }

  // The open calls: those that gRPC has received and that are neither answered nor cancelled.
  void Opened() { num_open_.fetch_add(1, std::memory_order_relaxed); }
  void Closed() { num_open_.fetch_sub(1, std::memory_order_relaxed); }
  int64_t num_open() const { return num_open_.load(std::memory_order_relaxed); }

  // The admitted calls: those that a responder prepares, generates or writes. A call that waits for
  // its responder is not admitted yet, so that calls that will be refused take no place of others.
  // Returns false if `max_admitted` calls are admitted already.
  bool Admit(int64_t max_admitted) {
    if (num_admitted_.fetch_add(1, std::memory_order_relaxed) < max_admitted) return true;
    Leave();
    return false;
  }
  // Ends the admission of one call.
  void Leave() { num_admitted_.fetch_sub(1, std::memory_order_relaxed); }

 private:
  mutable std::mutex mutex_;
  // By request id and tenant. Almost always one tenant has an id.
  absl::flat_hash_map<std::string, std::map<std::string, uint64_t>> by_name_;
  std::atomic<int64_t> num_open_{0};
  std::atomic<int64_t> num_admitted_{0};
};

}  // namespace tessera
