// The names of the certificates of connected clients (tls.h), by the number of their connection.
// The door writes them, calls read them. Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace tessera {

class ClientNames final {
 public:
  using Names = std::shared_ptr<const std::vector<std::string>>;

  void Add(uint64_t connection, std::vector<std::string> names) {
    auto added = std::make_shared<const std::vector<std::string>>(std::move(names));
    std::lock_guard<std::mutex> lock(mutex_);
    by_connection_[connection] = std::move(added);
  }
  void Remove(uint64_t connection) {
    std::lock_guard<std::mutex> lock(mutex_);
    by_connection_.erase(connection);
  }
  // Null: the client has presented no certificate, or is gone.
  Names Find(uint64_t connection) const {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = by_connection_.find(connection);
    return found == by_connection_.end() ? nullptr : found->second;
  }

 private:
  mutable std::mutex mutex_;
  absl::flat_hash_map<uint64_t, Names> by_connection_;
};

}  // namespace tessera
