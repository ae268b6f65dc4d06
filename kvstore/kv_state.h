// The plain data of the KV store: KvState is the store's data of one sequence, KvMatch is the
// answer of a lookup, and KvScratch collects the changes that a plan will make. KV is exact if it
// has the bits that the model computes from the tokens alone. KV is approximate if it is lossy,
// reused after another prefix, or computed on approximate KV.
//
// The engine owns each KvState in a Sequence, and only KvManager changes it. The planner of a step
// owns the KvScratch. Engine thread only.
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
  int32_t first_live_page = 0;  // earlier pages are outside the window and are kNullPage
};

// A quality class or chunk method whose approximate KV a sequence accepts.
struct KvClass {
  PageHash root;                 // ApproximateRoot of the sequence's exact root
  std::vector<PageHash> hashes;  // names of whole pages from page 0, as far as computed
};
inline constexpr int32_t kNoKvClass = -1;
inline constexpr int64_t kAllExact = std::numeric_limits<int64_t>::max();

// The store's data of a sequence. The members that every step reads are first, in one cache line.
struct KvState {
  int32_t model = 0;
  // Index in `accepted` of the class under which pages beyond exact_tokens are announced and
  // published. kNoKvClass: such pages stay private.
  int32_t kv_class = kNoKvClass;
  // false: the sequence's pages are neither looked up, announced nor published (prompt scoring,
  // embeddings).
  bool cacheable = true;
  bool admitted = false;
  int64_t num_tokens = 0;  // number of tokens whose KV is written
  // KV of tokens [0, exact_tokens) is exact, or will be exact when it is computed. KV of later
  // tokens is approximate. A page is exact if the KV of all its tokens is exact.
  int64_t exact_tokens = kAllExact;
  // The sequence announces that it will compute num_announced_pages pages, from page num_tokens /
  // page_tokens on (see KvMatch::announced_tokens).
  int64_t num_announced_pages = 0;
  std::vector<KvGroupState> groups;  // empty unless admitted

  PageHash root;                 // root of the names of exact KV
  std::vector<PageHash> hashes;  // exact names of whole pages of known tokens, as far as computed
  // The classes whose pages a lookup may take after the exact pages. If two classes give equally
  // long hits, the earlier class is taken. Empty: the sequence accepts exact KV only. The owner
  // sets the classes before the first call for the state.
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
  // Tokens of the longest prefix of the hit whose pages are exact in all groups, that is, not
  // approximate (KvState::exact_tokens).
  int64_t exact_tokens = 0;
  // Tokens of the longest prefix that will exist once admitted sequences have computed the pages
  // that they announce. If it exceeds hit_tokens, waiting may cost less than computing these pages
  // again.
  int64_t announced_tokens = 0;
  // Indices in KvState::accepted of the classes of the approximate pages in the hit and in the
  // announced prefix. kNoKvClass: all pages are exact.
  int32_t kv_class = kNoKvClass;
  int32_t announced_class = kNoKvClass;
  // The number of unreferenced pages of the hit. Admit references these pages, so that they cannot
  // be evicted.
  int64_t evictable_pages = 0;
};

// The changes that a plan will make to the store when the plan is committed. A lookup with the
// scratch sees the announcements of the plan's earlier sequences.
struct KvScratch {
  // Names and models of the pages that the plan's sequences will announce.
  absl::flat_hash_set<std::pair<PageHash, int32_t>> announced;
  // Cached pages that the plan's sequences will reference, so that they cannot be evicted.
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
