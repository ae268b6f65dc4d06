// The plain data of the KV store: what it keeps for one sequence, what it answers, and the scratch
// that a plan writes instead of the store.
//
// A KvState is owned by the engine inside its Sequence and changed by KvManager only; a KvScratch
// is owned by whoever plans. All of them are used on the engine thread only.
#pragma once

#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "kernels/base/types.h"
#include "kvstore/page_hash.h"

namespace tessera {

// The pages of one sequence in one KV group, in token order.
struct KvGroupState {
  std::vector<PageId> pages;
  int32_t first_live_page = 0;  // pages before it left the window and are kNullPage
};

// A quality class or chunk method whose approximate KV a sequence accepts.
struct KvClass {
  PageHash root;                 // ApproximateRoot of the sequence's exact root
  std::vector<PageHash> hashes;  // names of whole pages from page 0 under the root, as computed
};
inline constexpr int32_t kNoKvClass = -1;
inline constexpr int64_t kAllExact = std::numeric_limits<int64_t>::max();

// The KV side of a sequence. What each step asks comes first, in one cache line.
struct KvState {
  int32_t model = 0;
  // Index in `accepted` of the class under which pages beyond exact_tokens are announced and
  // published. kNoKvClass: such pages stay private.
  int32_t kv_class = kNoKvClass;
  // false: pages are neither looked up, announced nor published (prompt scoring, embeddings)
  bool cacheable = true;
  bool admitted = false;
  int64_t num_tokens = 0;  // tokens whose KV is written: the progress number as the store sees it
  // KV of tokens before this one is exact, or will be once computed. KV of later tokens is
  // approximate (lossy or reused) or computed on approximate KV. A page is exact if KV of all its
  // tokens is.
  int64_t exact_tokens = kAllExact;
  // Pages [num_tokens / page_tokens, + num_announced_pages) are announced to others, see KvMatch.
  int64_t num_announced_pages = 0;
  std::vector<KvGroupState> groups;  // empty unless admitted

  PageHash root;                 // of exact KV
  std::vector<PageHash> hashes;  // exact names of whole pages of known tokens, as far as computed
  // The classes whose pages a lookup takes beyond the exact hit; the earlier one wins a tie. Empty:
  // exact KV only. Set before the state is first used.
  std::vector<KvClass> accepted;

  bool IsExactPage(int64_t page, int64_t page_tokens) const {
    return (page + 1) * page_tokens <= exact_tokens;
  }
};

// How many of a sequence's tokens have KV in the store.
struct KvMatch {
  // Tokens of the longest prefix of whole pages that all groups have. At least one token of the
  // prompt stays outside the hit, because a step must compute it.
  int64_t hit_tokens = 0;
  // The part of the hit that has exact pages in all groups.
  int64_t exact_tokens = 0;
  // Tokens of the longest prefix that will exist once admitted sequences have computed the pages
  // that they announce. If it exceeds hit_tokens, waiting may cost less than computing these pages
  // again.
  int64_t announced_tokens = 0;
  // Indices in KvState::accepted of the classes that the hit and the announced prefix need beyond
  // exact pages. kNoKvClass: exact pages are enough.
  int32_t kv_class = kNoKvClass;
  int32_t announced_class = kNoKvClass;
  // Unreferenced pages of the hit: Admit takes them out of eviction.
  int64_t evictable_pages = 0;
};

// The changes that a plan will make to the store when the plan is committed. The sequences of one
// plan see each other's announcements through it.
struct KvScratch {
  // Pages that the plan's sequences will announce: name and model.
  absl::flat_hash_set<std::pair<PageHash, int32_t>> announced;
  // Cached pages that the plan's sequences will take out of eviction.
  absl::flat_hash_set<PageId> taken;

  void Clear() {
    announced.clear();
    taken.clear();
  }
};

// The number of slabs for each use. The sum over all uses is the pool without the null page.
struct KvUsage {
  int64_t total_slabs = 0;
  int64_t free_slabs = 0;
  int64_t cached_slabs = 0;  // evictable: unreferenced, findable
  int64_t kv_slabs = 0;      // referenced by sequences and page ops
  int64_t adapter_slabs = 0;
  int64_t staging_slabs = 0;
};

// Counts since the store was made.
struct KvStats {
  int64_t evicted_pages = 0;  // pages evicted to make room
  int64_t hit_tokens = 0;     // tokens of the hits that Admit took
  int64_t lookup_tokens = 0;  // tokens that Admit looked up
  int64_t num_matches = 0;    // calls of Match
};

}  // namespace tessera
