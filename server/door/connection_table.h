// The connections that are open: found by number, counted by address, and in the order in which
// they became idle. The door owns the table and uses it on its thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "server/door/connection.h"

namespace tessera {

class ConnectionTable final {
 public:
  enum class Idle {
    kNo,      // it has open calls, or is a probe
    kUnused,  // it has had no call so far
    kUsed,    // its calls have ended
  };
  struct Entry {
    std::unique_ptr<Connection> connection;
    bool is_probe = false;
    int undelivered = -1;  // gRPC's socket, until the handshake is over
    // The events for which the sockets are registered, 0: not registered.
    uint32_t client_events = 0;
    uint32_t server_events = 0;
    // What the table has counted of this connection.
    int64_t incoming = 0;
    int64_t incoming_bytes = 0;
    int64_t abandoned = 0;
    Idle idle = Idle::kNo;
    // Its places in the order of all connections and of those of its network. Valid if it is idle.
    std::list<uint64_t>::iterator place;
    std::list<uint64_t>::iterator network_place;
  };

  Entry* Add(uint64_t id, std::unique_ptr<Connection> connection, bool is_probe);
  Entry* Find(uint64_t id);  // null: there is none
  void Remove(uint64_t id);
  // Updates what the table counts, after bytes have passed through a connection.
  void Update(uint64_t id, Entry* entry);

  // Connections without probes.
  int64_t size() const { return size_; }
  int64_t SizeOf(const std::string& network) const;
  // Requests that have arrived in part, over all connections, and the bytes that count for them.
  int64_t num_incoming() const { return num_incoming_; }
  int64_t incoming_bytes() const { return incoming_bytes_; }
  // Streams that clients have reset, or left by the end of their connection, before the server sent
  // anything on them, since the last call.
  int64_t TakeAbandoned() { return std::exchange(abandoned_, 0); }
  // The connection that has been idle for the longest time, of all and of a network; 0: none is
  // idle. Connections that never had a call come first.
  uint64_t OldestIdle() const { return order_.Oldest(); }
  uint64_t OldestIdleOf(const std::string& network) const;
  // The connection with the most bytes of requests that have arrived in part. REQUIRES: not empty.
  uint64_t LargestIncoming() const;

  const absl::flat_hash_map<uint64_t, Entry>& all() const { return entries_; }

 private:
  // Idle connections, the one that has been idle for the longest time first.
  struct IdleOrder {
    std::list<uint64_t> unused;
    std::list<uint64_t> used;
    std::list<uint64_t>& Of(Idle idle) { return idle == Idle::kUnused ? unused : used; }
    uint64_t Oldest() const {
      if (!unused.empty()) return unused.front();
      return used.empty() ? 0 : used.front();
    }
  };
  struct Network {
    int64_t size = 0;
    IdleOrder order;
  };

  void SetIdle(uint64_t id, Entry* entry, Idle idle);

  absl::flat_hash_map<uint64_t, Entry> entries_;
  absl::flat_hash_map<std::string, Network> networks_;  // without probes
  IdleOrder order_;
  int64_t size_ = 0;
  int64_t num_incoming_ = 0;
  int64_t incoming_bytes_ = 0;
  int64_t abandoned_ = 0;
};

}  // namespace tessera
