// Maps the name of contents to the page that holds them, per KV group, and counts announced names:
// a name is announced while a sequence is computing its contents. An entry never owns its page. The
// pool keeps a published page until it is evicted; then the manager erases the entry.
//
// Owned by KvManager; engine thread only.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "kernels/base/types.h"
#include "kvstore/page_hash.h"

namespace tessera {

class PrefixIndex final {
 public:
  // `group` tells the KV groups of all models apart (Page::owner).
  PageId Find(const PageHash& hash, int32_t group) const;  // kNullPage: none
  // False when the name has a page in the group already; that page stays.
  bool Insert(const PageHash& hash, int32_t group, PageId page);
  // REQUIRES: the name has `page` in the group.
  void Erase(const PageHash& hash, int32_t group, PageId page);

  // Announcements are counted: several sequences may be computing the same page. `model` keeps
  // equal names of different models apart.
  void Announce(const PageHash& hash, int32_t model);
  void Withdraw(const PageHash& hash, int32_t model);  // REQUIRES: announced
  int32_t num_announced(const PageHash& hash, int32_t model) const;
  // Asks TakeSettled to return the name once it is no longer announced. False when it is not
  // announced now.
  bool Watch(const PageHash& hash, int32_t model);
  std::vector<std::pair<PageHash, int32_t>> TakeSettled() { return std::exchange(settled_, {}); }

  int64_t num_pages() const { return static_cast<int64_t>(pages_.size()); }
  int64_t num_announced_names() const { return static_cast<int64_t>(announced_.size()); }

 private:
  using Key = std::pair<PageHash, int32_t>;
  struct Announcement {
    int32_t count = 0;
    bool watched = false;
  };

  absl::flat_hash_map<Key, PageId> pages_;
  absl::flat_hash_map<Key, Announcement> announced_;
  std::vector<Key> settled_;
};

}  // namespace tessera
