// The open Inference calls by request id. A request id that is already open is refused, and
// Control.Cancel finds a call by its request id. Any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>

#include "absl/container/flat_hash_map.h"

namespace tessera {

class LiveCalls final {
 public:
  // Returns false when another open call has this request id.
  bool Register(const std::string& request_id, uint64_t call) {
    std::lock_guard<std::mutex> lock(mutex_);
    return by_name_.try_emplace(request_id, call).second;
  }
  // Frees the request id if `call` holds it.
  void Unregister(const std::string& request_id, uint64_t call) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto it = by_name_.find(request_id);
    if (it != by_name_.end() && it->second == call) by_name_.erase(it);
  }
  std::optional<uint64_t> Find(const std::string& request_id) const {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto it = by_name_.find(request_id);
    if (it == by_name_.end()) return std::nullopt;
    return it->second;
  }

  // These count the open calls, including calls whose request id is not registered yet.
  void Opened() { num_open_.fetch_add(1, std::memory_order_relaxed); }
  void Closed() { num_open_.fetch_sub(1, std::memory_order_relaxed); }
  int64_t num_open() const { return num_open_.load(std::memory_order_relaxed); }

 private:
  mutable std::mutex mutex_;
  absl::flat_hash_map<std::string, uint64_t> by_name_;
  std::atomic<int64_t> num_open_{0};
};

}  // namespace tessera
