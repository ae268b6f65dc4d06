// NaiveKv is the reference of the random test: a second KV store with the contract of KvManager,
// implemented by maps and brute force, whose names are not hashes. The reference sees the tested
// store only through its interface: the reference predicts what every verb answers, learns page ids
// from the page tables, and keeps the contents of every slab. Contents are numbers that stand for
// (model, root, all tokens up to this one, group), so a page that is reused, evicted or written
// when it must not be shows as a wrong number. Approximate contents stand for the root of their
// class instead, so they show where exact ones must be.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "kvstore/kv_manager.h"

namespace tessera::testing {

// A sequence as the test's engine would hold it.
struct NaiveSequence {
  KvState state;
  std::vector<TokenId> tokens;
  std::vector<int32_t> prefixes;  // [tokens] names of tokens[0 .. i] under the root
  int32_t root_prefix = 0;        // the name of the empty prefix
  // The names of the same prefixes in each class that the sequence accepts.
  std::vector<std::vector<int32_t>> class_prefixes;  // [classes, tokens]
  std::vector<int32_t> class_roots;                  // [classes] names of the empty prefix
  std::set<int64_t> scribbled;  // positions whose contents were overwritten (holes)
  int64_t announced_end = 0;    // the page after the last announced one
  int64_t exact_tokens = kAllExact;
  int32_t kv_class = kNoKvClass;
};

class NaiveKv final {
 public:
  // `exact_lru`: all pages have one slab, so the next page to be evicted is known.
  NaiveKv(KvManager* kv, int64_t num_slabs, int32_t max_slabs_per_page, bool exact_lru);

  // The name of the prefix that appends `token` to `parent`.
  int32_t Extend(int32_t parent, TokenId token);
  int32_t Root(int32_t model, int32_t salt);
  int32_t ClassRoot(int32_t exact_root, int32_t kv_class);

  // Each calls the verb and checks the answer, the tables, the contents and the invariants.
  KvMatch Match(NaiveSequence* s);
  void Admit(NaiveSequence* s);
  bool Grow(NaiveSequence* s, int64_t num_tokens);
  // Writes the tokens up to num_written, Advances to num_tokens <= num_written.
  void Advance(NaiveSequence* s, int64_t num_written, int64_t num_tokens);
  // KV that is written from that token on is approximate.
  void MarkApproximate(NaiveSequence* s, int64_t from_token, int32_t kv_class);
  void Release(NaiveSequence* s);
  // Overwrites tokens [begin, end) with other contents if EnsureWritable allows it.
  bool Scribble(NaiveSequence* s, int64_t begin, int64_t end);
  void DropCached();
  // A step of the model is launched: it takes the page ops. With kMaxSteps in flight the oldest
  // retires first.
  void TakePageOps(int32_t model);
  // The oldest step in flight, if any, makes its copies and retires.
  void RetireStep();
  // A step of the model is launched and all steps retire.
  void RunPageOps(int32_t model);

  // Runs all page ops, then CHECK-fails unless all live and all findable pages have the right
  // contents.
  void CheckContents();
  int64_t num_verbs() const { return num_verbs_; }
  // Admissions whose hit needed a class, and those of them that started with exact pages.
  int64_t num_class_hits() const { return num_class_hits_; }
  int64_t num_mixed_hits() const { return num_mixed_hits_; }
  // Destinations that were given back while a step in flight copied to them.
  int64_t num_waited_for() const { return num_waited_for_; }

 private:
  using Key = std::tuple<int32_t, int32_t, int32_t>;  // model, group, prefix at the page's end
  struct Entry {
    PageId page = kNullPage;
    PageHash hash;
    int32_t refs = 0;
    int64_t released = 0;       // time at which the last reference ended
    int32_t exact_prefix = -1;  // in a class: the exact prefix of the same tokens
  };
  struct Hits {
    int64_t hit_pages = 0;
    int64_t exact_pages = 0;
    int64_t announced_pages = 0;
    int64_t num_evictable = 0;
    int32_t kv_class = kNoKvClass;
    int32_t announced_class = kNoKvClass;
  };
  using Announced = std::set<std::pair<int32_t, int32_t>>;  // (model, prefix)
  struct Copy {
    int32_t model = 0;
    PageOp op;
    bool given_back = false;  // its destination was given back while the copy was in flight
  };
  static constexpr size_t kMaxSteps = 2;

  const PageLayout& layout(const NaiveSequence& s) const { return kv_->layout(s.state.model); }
  Key KeyOf(const NaiveSequence& s, int32_t group, int64_t page, int32_t kv_class) const;
  bool IsExact(const NaiveSequence& s, int64_t page) const;
  // The class under whose name the sequence publishes a page; kNoKvClass: the exact name; nothing:
  // it does not publish the page.
  std::optional<int32_t> PublicClass(const NaiveSequence& s, int64_t page) const;
  Entry* Find(const Key& key);
  // Finds the page by its exact name, else by its name in the class.
  Entry* FindPage(const NaiveSequence& s, int32_t group, int64_t page, int32_t kv_class);
  Announced AllAnnounced() const;
  bool Has(const NaiveSequence& s, int64_t num_pages, int32_t kv_class, const Announced& announced);
  int64_t Longest(const NaiveSequence& s, int32_t kv_class, const Announced& announced);
  static int64_t FirstNeeded(const GroupLayout& group, int64_t num_tokens);
  Hits FindHits(const NaiveSequence& s);
  int64_t HeldSlabs() const;
  int64_t CachedSlabs() const;
  int64_t NumAvailable(int32_t slabs_per_page) const;
  // After room was granted: takes the new pages of the tables and forgets the evicted ones.
  void AdoptNewPages(NaiveSequence* s, size_t first_page, int64_t evicted_before);
  void CheckEvicted(int64_t num_evicted, int64_t num_expected);
  void Take(PageId page, int32_t slabs);
  void Unref(PageId page);
  // A sequence gives the page back: a queued copy to it is dropped; the page stays held while a
  // copy to it is in flight.
  void GiveBack(PageId page);
  void CheckInvariants() const;  // after every verb
  int64_t& Cell(const PageLayout& layout, PageId page, int64_t token);
  int64_t ExactContent(const NaiveSequence& s, int32_t group, int64_t position) const;
  int64_t Content(const NaiveSequence& s, int32_t group, int64_t position) const;
  void CheckPage(const Key& key, const Entry& entry);
  void CheckSequence(const NaiveSequence& s, int64_t begin, int64_t end);

  KvManager* const kv_;
  const int64_t num_slabs_;
  const int32_t max_slabs_per_page_;
  const bool exact_lru_;
  int64_t num_verbs_ = 0;
  int64_t now_ = 0;
  int64_t num_scribbles_ = 0;
  int64_t num_waited_for_ = 0;
  int64_t num_class_hits_ = 0;
  int64_t num_mixed_hits_ = 0;
  std::map<std::pair<int32_t, int64_t>, int32_t> prefix_of_;  // (parent, token) -> prefix
  std::vector<std::pair<int32_t, TokenId>> parents_;          // [prefixes]
  std::vector<NaiveSequence*> live_;
  std::map<Key, Entry> findable_;
  std::map<PageId, Key> key_of_page_;    // of findable pages
  std::map<PageId, int32_t> taken_;      // referenced pages -> slabs
  std::vector<Copy> copies_;             // queued page ops
  std::deque<std::vector<Copy>> steps_;  // in flight, with what they copy
  std::vector<int64_t> memory_;          // [slabs, kCellsPerSlab]
};

}  // namespace tessera::testing
