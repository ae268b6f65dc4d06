// The connections that are open: found by number, counted by address, and in the order in which
// they became idle. The door owns the table and uses it on its thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "server/door/connection.h"

namespace tessera {

class ConnectionTable final {
 public:
  struct Entry {
    std::unique_ptr<Connection> connection;
    bool is_probe = false;
    // The events for which the sockets are registered, 0: not registered.
    uint32_t client_events = 0;
    uint32_t server_events = 0;
    int64_t incoming_bytes = 0;  // as counted in ConnectionTable::incoming_bytes
    bool idle = false;
    std::list<uint64_t>::iterator idle_at;  // valid if idle
  };

  Entry* Add(uint64_t id, std::unique_ptr<Connection> connection, bool is_probe);
  Entry* Find(uint64_t id);  // null: there is none
  void Remove(uint64_t id);
  // Updates what the table counts, after bytes have passed through a connection.
  void Update(uint64_t id, Entry* entry);

  // Connections without probes.
  int64_t size() const { return size_; }
  int64_t SizeOf(const std::string& network) const;
  // Bytes of requests that have arrived in part, over all connections.
  int64_t incoming_bytes() const { return incoming_bytes_; }
  // The connection that has been idle for the longest time; 0: none is idle.
  uint64_t OldestIdle() const { return idle_.empty() ? 0 : idle_.front(); }
  // The connection with the most bytes of requests that have arrived in part. REQUIRES: not empty.
  uint64_t LargestIncoming() const;

  const absl::flat_hash_map<uint64_t, Entry>& all() const { return entries_; }

 private:
  absl::flat_hash_map<uint64_t, Entry> entries_;
  absl::flat_hash_map<std::string, int64_t> by_network_;
  std::list<uint64_t> idle_;  // without probes
  int64_t size_ = 0;
  int64_t incoming_bytes_ = 0;
};

}  // namespace tessera
