#include "kvstore/prefix_index.h"

#include "kernels/base/log.h"

namespace tessera {

PageId PrefixIndex::Find(const PageHash& hash, int32_t group) const {
  const auto it = pages_.find(Key(hash, group));
  return it == pages_.end() ? kNullPage : it->second;
}

bool PrefixIndex::Insert(const PageHash& hash, int32_t group, PageId page) {
  return pages_.try_emplace(Key(hash, group), page).second;
}

void PrefixIndex::Erase(const PageHash& hash, int32_t group, PageId page) {
  const auto it = pages_.find(Key(hash, group));
  CHECK(it != pages_.end()) << "group " << group << " page " << page;
  CHECK_EQ(it->second, page);
  pages_.erase(it);
}

void PrefixIndex::Announce(const PageHash& hash, int32_t model) {
  ++announced_[Key(hash, model)].count;
}

void PrefixIndex::Withdraw(const PageHash& hash, int32_t model) {
  const auto it = announced_.find(Key(hash, model));
  CHECK(it != announced_.end()) << "model " << model;
  if (--it->second.count > 0) return;
  if (it->second.watched) settled_.push_back(it->first);
  announced_.erase(it);
}

int32_t PrefixIndex::num_announced(const PageHash& hash, int32_t model) const {
  const auto it = announced_.find(Key(hash, model));
  return it == announced_.end() ? 0 : it->second.count;
}

bool PrefixIndex::Watch(const PageHash& hash, int32_t model) {
  const auto it = announced_.find(Key(hash, model));
  if (it == announced_.end()) return false;
  it->second.watched = true;
  return true;
}

}  // namespace tessera
