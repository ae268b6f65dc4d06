// The plain data of the KV store: what it keeps for one sequence, what it answers, and the scratch
// that a plan writes instead of the store.
//
// A KvState is owned by the engine inside its Sequence and changed by KvManager only; a KvScratch
// is owned by whoever plans. All of them are used on the engine thread only.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "kernels/base/types.h"
#include "kvstore/page_hash.h"

namespace tessera {

// The pages of one sequence in one KV group, in token order.
struct KvGroupState {
  std::vector<PageId> pages;
  int32_t first_live_page = 0;  // the window has left the pages before it: they are kNullPage
};

// The KV side of a sequence.
struct KvState {
  int32_t model = 0;
  PageHash root;
  // false: pages are neither looked up, announced nor published (prompt scoring, embeddings)
  bool cacheable = true;
  bool admitted = false;
  int64_t num_tokens = 0;  // tokens whose KV is written: the progress number as the store sees it
  std::vector<PageHash> hashes;      // names of whole pages of known tokens, as far as computed
  std::vector<KvGroupState> groups;  // empty unless admitted
  // Pages [num_tokens / page_tokens, + num_announced_pages) are announced to others, see KvMatch.
  int64_t num_announced_pages = 0;
};

// How much of a sequence's tokens the store has.
struct KvMatch {
  // Tokens in whole pages that all groups have. It is never the whole prompt: one token is left to
  // compute.
  int64_t hit_tokens = 0;
  // Tokens of the longest prefix once the pages that admitted sequences are computing right now are
  // there too. When it exceeds hit_tokens, waiting may be cheaper than computing them again.
  int64_t announced_tokens = 0;
  // Cached pages that the hit takes out of eviction.
  int64_t evictable_pages = 0;
};

// What a plan will do to the store when it is committed. It lets the sequences of one plan see each
// other.
struct KvScratch {
  // Pages that the plan's sequences will announce: name and model.
  absl::flat_hash_set<std::pair<PageHash, int32_t>> announced;
  // Cached pages that they will take out of eviction.
  absl::flat_hash_set<PageId> taken;

  void Clear() {
    announced.clear();
    taken.clear();
  }
};

// Slabs by what they are used for; they add up to the pool without the null page.
struct KvUsage {
  int64_t total_slabs = 0;
  int64_t free_slabs = 0;
  int64_t cached_slabs = 0;  // evictable: unreferenced, findable
  int64_t kv_slabs = 0;      // referenced by sequences and page ops
  int64_t adapter_slabs = 0;
  int64_t staging_slabs = 0;
};

// Counted since the start.
struct KvStats {
  int64_t evicted_pages = 0;  // to make room
  int64_t hit_tokens = 0;     // taken by Admit
  int64_t lookup_tokens = 0;  // asked for by Admit
  int64_t num_matches = 0;    // calls of Match
};

}  // namespace tessera
