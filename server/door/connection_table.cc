#include "server/door/connection_table.h"

#include <utility>

#include "kernels/base/log.h"

namespace tessera {

ConnectionTable::Entry* ConnectionTable::Add(uint64_t id, std::unique_ptr<Connection> connection,
                                             bool is_probe) {
  const auto [at, added] = entries_.try_emplace(id);
  CHECK(added) << "connection " << id << " exists";
  Entry& entry = at->second;
  entry.connection = std::move(connection);
  entry.is_probe = is_probe;
  if (!is_probe) {
    ++size_;
    ++by_network_[entry.connection->peer().network];
  }
  Update(id, &entry);
  return &entry;
}

ConnectionTable::Entry* ConnectionTable::Find(uint64_t id) {
  const auto found = entries_.find(id);
  return found == entries_.end() ? nullptr : &found->second;
}

void ConnectionTable::Remove(uint64_t id) {
  const auto found = entries_.find(id);
  CHECK(found != entries_.end()) << "no connection " << id;
  const Entry& entry = found->second;
  incoming_bytes_ -= entry.incoming_bytes;
  if (entry.idle) idle_.erase(entry.idle_at);
  if (!entry.is_probe) {
    --size_;
    const auto count = by_network_.find(entry.connection->peer().network);
    if (--count->second == 0) by_network_.erase(count);
  }
  entries_.erase(found);
}

void ConnectionTable::Update(uint64_t id, Entry* entry) {
  const int64_t incoming = entry->connection->guard().incoming_bytes();
  incoming_bytes_ += incoming - entry->incoming_bytes;
  entry->incoming_bytes = incoming;
  const bool idle = entry->connection->idle() && !entry->is_probe;
  if (idle == entry->idle) return;
  entry->idle = idle;
  if (idle) {
    entry->idle_at = idle_.insert(idle_.end(), id);
  } else {
    idle_.erase(entry->idle_at);
  }
}

int64_t ConnectionTable::SizeOf(const std::string& network) const {
  const auto found = by_network_.find(network);
  return found == by_network_.end() ? 0 : found->second;
}

uint64_t ConnectionTable::LargestIncoming() const {
  uint64_t largest = 0;
  int64_t most = -1;
  for (const auto& [id, entry] : entries_) {
    if (entry.incoming_bytes <= most) continue;
    most = entry.incoming_bytes;
    largest = id;
  }
  return largest;
}

}  // namespace tessera
