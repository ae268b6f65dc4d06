// A million random verbs against a naive model of the store (naive_kv.h), which predicts every
// answer and knows the contents of every page.
#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/kvstore/kv_test_util.h"
#include "tests/kvstore/naive_kv.h"

namespace tessera {
namespace {

using testing::kSlabBytes;
using testing::MakeLayout;
using testing::NaiveKv;
using testing::NaiveSequence;

constexpr int64_t kMaxTokens = 72;

// An engine that calls the verbs in random order, wherever their contracts allow it.
class RandomEngine {
 public:
  RandomEngine(const std::vector<PageLayout>& models, int64_t num_slabs, int32_t max_slabs_per_page,
               bool exact_lru, uint32_t seed)
      : random_(seed),
        kv_(NewKvManager(num_slabs, kSlabBytes, max_slabs_per_page)),
        naive_(kv_.get(), num_slabs, max_slabs_per_page, exact_lru) {
    for (const PageLayout& layout : models) kv_->AddModel(layout);
    num_models_ = static_cast<int32_t>(models.size());
    for (auto& stream : streams_) {
      for (int64_t i = 0; i < kMaxTokens; ++i) stream.push_back(static_cast<TokenId>(Pick(50)));
    }
  }

  void Run(int64_t num_verbs) {
    int64_t num_turns = 0;
    while (naive_.num_verbs() < num_verbs) {
      Turn();
      if (++num_turns % 64 == 0) naive_.CheckContents();
    }
    while (!sequences_.empty()) End(0);
    naive_.CheckContents();
    naive_.DropCached();
    EXPECT_EQ(kv_->usage().free_slabs, kv_->usage().total_slabs);
    // The run has covered the cases that the test is for.
    EXPECT_GT(kv_->stats().evicted_pages, num_verbs / 100);
    EXPECT_GT(kv_->stats().hit_tokens, num_verbs / 100);
    EXPECT_GT(num_refused_, num_verbs / 1000);
    EXPECT_GT(num_scribbled_, num_verbs / 1000);
    // These cases are rare. The short runs under sanitizers see at least one of each, except that
    // some of them see no sequence that waits.
    const bool is_short = testing::kWorkDivisor > 1;
    const int64_t num_rare = is_short ? 0 : num_verbs / 10000;
    EXPECT_GT(naive_.num_waited_for(), is_short ? -1 : num_rare);
    EXPECT_GT(num_foreseen_, num_rare);
    EXPECT_GT(naive_.num_class_hits(), num_rare);
    EXPECT_GT(naive_.num_mixed_hits(), num_rare);
  }

 private:
  int64_t Pick(int64_t bound) { return static_cast<int64_t>(random_() % bound); }
  bool Chance(int percent) { return Pick(100) < percent; }

  void Turn() {
    const int64_t dice = Pick(1000);
    if (sequences_.size() < 2 || (dice < 120 && sequences_.size() < 12)) return Start();
    const size_t which = static_cast<size_t>(Pick(static_cast<int64_t>(sequences_.size())));
    NaiveSequence* s = sequences_[which].get();
    if (dice < 180) return End(which);
    if (dice < 181) return naive_.DropCached();
    if (dice < 215) return naive_.TakePageOps(static_cast<int32_t>(Pick(num_models_)));
    if (dice < 225) return naive_.RetireStep();
    if (!s->state.admitted) return TryAdmit(s);
    if (dice < 240) return naive_.Release(s);  // preempted: it stays and is admitted again
    if (dice < 300) return TryScribble(s);
    if (dice < 330) return MarkApproximate(s);
    Step(s);
  }

  // Tokens follow one of a few streams and may leave it, so that many prefixes are shared.
  void Start() {
    auto s = std::make_unique<NaiveSequence>();
    s->state.model = static_cast<int32_t>(Pick(num_models_));
    const int32_t salt = Chance(80) ? 0 : 1;
    s->state.root = testing::RootOfSalt(std::to_string(salt));
    s->root_prefix = naive_.Root(s->state.model, salt);
    s->state.cacheable = !Chance(10);
    // The sequence accepts no class, one of two, or both in either order.
    const int64_t num_accepted = Chance(50) ? 0 : 1 + Pick(2);
    const auto first = static_cast<int32_t>(Pick(2));
    for (const int32_t kv_class : {first, 1 - first}) {
      if (std::ssize(s->class_roots) == num_accepted) break;
      s->state.accepted.push_back({ApproximateRoot(s->state.root, std::to_string(kv_class)), {}});
      s->class_roots.push_back(naive_.ClassRoot(s->root_prefix, kv_class));
    }
    s->class_prefixes.resize(num_accepted);
    stream_of_.push_back(Pick(kNumStreams));
    sequences_.push_back(std::move(s));
    const int64_t num_tokens = 1 + Pick(Chance(70) ? 24 : kMaxTokens - 8);
    while (static_cast<int64_t>(sequences_.back()->tokens.size()) < num_tokens) {
      AddToken(sequences_.size() - 1);
    }
  }

  void AddToken(size_t which) {
    NaiveSequence* s = sequences_[which].get();
    if (Chance(2)) stream_of_[which] = Pick(kNumStreams);
    const TokenId token = streams_[stream_of_[which]][s->tokens.size()];
    const int32_t parent = s->prefixes.empty() ? s->root_prefix : s->prefixes.back();
    s->tokens.push_back(token);
    s->prefixes.push_back(naive_.Extend(parent, token));
    for (size_t c = 0; c < s->class_roots.size(); ++c) {
      std::vector<int32_t>& prefixes = s->class_prefixes[c];
      prefixes.push_back(
          naive_.Extend(prefixes.empty() ? s->class_roots[c] : prefixes.back(), token));
    }
  }

  // A plan that admits `s` and one more sees the store as it will be.
  void TryAdmit(NaiveSequence* s) {
    NaiveSequence* const other = sequences_[Pick(std::ssize(sequences_))].get();
    const bool has_other = other != s && !other->state.admitted;
    KvMatch foreseen;
    if (has_other) {
      KvScratch scratch;
      kv_->Foresee(&s->state, s->tokens, naive_.Match(s), &scratch);
      foreseen = kv_->Match(&other->state, other->tokens, &scratch);
      const KvMatch before = naive_.Match(other);
      num_foreseen_ += foreseen.announced_tokens != before.announced_tokens ? 1 : 0;
      num_foreseen_ += foreseen.evictable_pages != before.evictable_pages ? 1 : 0;
    }
    naive_.Admit(s);
    if (has_other) ExpectEqual(naive_.Match(other), foreseen);
    if (!s->state.accepted.empty() && Chance(50)) MarkApproximate(s);
    if (Chance(10)) return;
    if (naive_.Grow(s, s->state.num_tokens + Pick(std::ssize(s->tokens) + 4))) return;
    ++num_refused_;
    if (Chance(50)) naive_.Release(s);
  }

  static void ExpectEqual(const KvMatch& a, const KvMatch& b) {
    EXPECT_EQ(a.hit_tokens, b.hit_tokens);
    EXPECT_EQ(a.exact_tokens, b.exact_tokens);
    EXPECT_EQ(a.announced_tokens, b.announced_tokens);
    EXPECT_EQ(a.kv_class, b.kv_class);
    EXPECT_EQ(a.announced_class, b.announced_class);
    EXPECT_EQ(a.evictable_pages, b.evictable_pages);
  }

  // A chunk of the tokens, or a decoded one; sometimes only a part of what was written counts.
  void Step(NaiveSequence* s) {
    const size_t which =
        static_cast<size_t>(std::find_if(sequences_.begin(), sequences_.end(),
                                         [s](const auto& other) { return other.get() == s; }) -
                            sequences_.begin());
    if (s->state.num_tokens == static_cast<int64_t>(s->tokens.size())) {
      if (s->state.num_tokens == kMaxTokens) return End(which);
      AddToken(which);
    }
    const int64_t known = static_cast<int64_t>(s->tokens.size());
    const int64_t num_written = s->state.num_tokens + 1 + Pick(known - s->state.num_tokens);
    if (!naive_.Grow(s, num_written + (Chance(10) ? Pick(5) : 0))) {
      ++num_refused_;
      const size_t room =
          s->state.groups[0].pages.size() * kv_->layout(s->state.model).page_tokens();
      if (static_cast<int64_t>(room) < num_written) return;
    }
    const int64_t kept =
        Chance(80) ? num_written : s->state.num_tokens + Pick(num_written - s->state.num_tokens);
    naive_.Advance(s, num_written, kept);
  }

  void TryScribble(NaiveSequence* s) {
    const int64_t page_tokens = kv_->layout(s->state.model).page_tokens();
    const int64_t whole = s->state.num_tokens / page_tokens * page_tokens;
    const int64_t begin = Pick(whole + 1);
    if (naive_.Scribble(s, begin, begin + Pick(whole - begin + 1))) ++num_scribbled_;
  }

  // Mostly marks tokens that are not written yet.
  void MarkApproximate(NaiveSequence* s) {
    const auto num_accepted = static_cast<int64_t>(s->state.accepted.size());
    const bool is_bound = s->state.exact_tokens != kAllExact;
    const auto kv_class =
        is_bound ? s->state.kv_class : static_cast<int32_t>(Pick(num_accepted + 1) - 1);
    const int64_t from =
        Chance(70) ? s->state.num_tokens + Pick(9) : Pick(std::ssize(s->tokens) + 1);
    naive_.MarkApproximate(s, from, kv_class);
  }

  void End(size_t which) {
    naive_.Release(sequences_[which].get());
    sequences_.erase(sequences_.begin() + static_cast<long>(which));
    stream_of_.erase(stream_of_.begin() + static_cast<long>(which));
  }

  static constexpr int64_t kNumStreams = 4;

  std::mt19937 random_;
  std::unique_ptr<KvManager> kv_;
  NaiveKv naive_;
  int32_t num_models_ = 0;
  std::vector<TokenId> streams_[kNumStreams];
  std::vector<std::unique_ptr<NaiveSequence>> sequences_;
  std::vector<int64_t> stream_of_;  // [sequences]
  int64_t num_refused_ = 0;
  int64_t num_scribbled_ = 0;
  int64_t num_foreseen_ = 0;  // the plan's scratch changed what another sequence saw
};

constexpr int64_t kVerbs = 500000 / testing::kWorkDivisor;

TEST(KvRandom, PagesOfOneSizeAreEvictedInExactOrder) {
  RandomEngine engine(
      {MakeLayout(4, {0}), MakeLayout(4, {0, 6}), MakeLayout(2, {5, 12}), MakeLayout(8, {0, 1, 9})},
      /*num_slabs=*/61, /*max_slabs_per_page=*/1, /*exact_lru=*/true, 1);
  engine.Run(kVerbs);
}

TEST(KvRandom, PagesOfSeveralSizes) {
  RandomEngine engine(
      {MakeLayout(4, {0}), MakeLayout(8, {0, 10}, 2), MakeLayout(8, {9}, 4), MakeLayout(2, {0, 0})},
      /*num_slabs=*/72, /*max_slabs_per_page=*/4, /*exact_lru=*/false, 2);
  engine.Run(kVerbs);
}

}  // namespace
}  // namespace tessera
