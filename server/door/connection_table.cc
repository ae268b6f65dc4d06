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
    ++networks_[entry.connection->peer().network].size;
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
  Entry& entry = found->second;
  num_incoming_ -= entry.incoming;
  incoming_bytes_ -= entry.incoming_bytes;
  abandoned_ += entry.connection->guard().num_unanswered();
  SetIdle(id, &entry, Idle::kNo);
  if (!entry.is_probe) {
    --size_;
    const auto network = networks_.find(entry.connection->peer().network);
    if (--network->second.size == 0) networks_.erase(network);
  }
  entries_.erase(found);
}

void ConnectionTable::Update(uint64_t id, Entry* entry) {
  const FrameGuard& guard = entry->connection->guard();
  num_incoming_ += guard.num_incoming() - entry->incoming;
  entry->incoming = guard.num_incoming();
  incoming_bytes_ += guard.incoming_bytes() - entry->incoming_bytes;
  entry->incoming_bytes = guard.incoming_bytes();
  abandoned_ += guard.num_abandoned() - entry->abandoned;
  entry->abandoned = guard.num_abandoned();
  if (entry->is_probe || !entry->connection->idle()) return SetIdle(id, entry, Idle::kNo);
  SetIdle(id, entry, guard.has_request() ? Idle::kUsed : Idle::kUnused);
}

void ConnectionTable::SetIdle(uint64_t id, Entry* entry, Idle idle) {
  if (idle == entry->idle) return;
  IdleOrder& network = networks_.find(entry->connection->peer().network)->second.order;
  if (entry->idle != Idle::kNo) {
    order_.Of(entry->idle).erase(entry->place);
    network.Of(entry->idle).erase(entry->network_place);
  }
  entry->idle = idle;
  if (idle == Idle::kNo) return;
  entry->place = order_.Of(idle).insert(order_.Of(idle).end(), id);
  entry->network_place = network.Of(idle).insert(network.Of(idle).end(), id);
}

uint64_t ConnectionTable::OldestIdleOf(const std::string& network) const {
  const auto found = networks_.find(network);
  return found == networks_.end() ? 0 : found->second.order.Oldest();
}

int64_t ConnectionTable::SizeOf(const std::string& network) const {
  const auto found = networks_.find(network);
  return found == networks_.end() ? 0 : found->second.size;
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
