// Tests that a dropped plan changes no observable state, and that the steps after it are the steps
// of a run without the dropped plan.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tests/lib/core_stack.h"
#include "tests/lib/put_kv.h"

namespace tessera::testing {
namespace {

constexpr int kRounds = 4000;

std::string NameOf(const Sequence* s) {
  return s == nullptr ? "-" : absl::StrCat(s->request->id, ".", s->index);
}

std::string Describe(const std::vector<TokenRange>& ranges) {
  return absl::StrJoin(ranges, "", [](std::string* out, const TokenRange& range) {
    absl::StrAppend(out, "[", range.begin, ",", range.end, ")");
  });
}

std::string Describe(const StepCost& c) {
  return absl::StrCat(c.num_tokens, ",", c.num_segments, ",", c.kv_read_tokens, ",",
                      c.attention_pairs, ",", c.num_logit_rows, ",", c.adapter_slabs, ",",
                      c.adapter_slab_rows);
}

std::string Describe(const StepPlan& plan) {
  std::string out = absl::StrCat("model ", plan.model, " most ", plan.most_us, " cost ",
                                 Describe(plan.cost), " entries");
  for (const PlanEntry& e : plan.entries) {
    absl::StrAppend(&out, " ", NameOf(e.sequence), Describe({e.ranges.begin(), e.ranges.end()}),
                    e.admits ? "+" : "", e.samples ? "*" : "", "t", e.target_begin, "x",
                    e.num_targets);
  }
  for (const Sequence* s : plan.preempted) absl::StrAppend(&out, " preempts ", NameOf(s));
  for (const StepPlan::Wait& wait : plan.waits) {
    absl::StrAppend(&out, " waits ", NameOf(wait.sequence));
  }
  for (const Sequence* s : plan.wants) absl::StrAppend(&out, " wants ", NameOf(s));
  for (const ModelTurn& turn : plan.turns) {
    absl::StrAppend(&out, " turn ", turn.used_us, ",", turn.active, ",", NameOf(turn.refused));
  }
  return out;
}

// The state of a sequence as text. Page hashes depend on the adapters' folders, which differ
// between runs, so the text has the index of the awaited hash.
std::string Describe(const Sequence& s) {
  const auto names = s.kv.hashes.begin();
  const int64_t awaited =
      s.place == QueuePlace::kPrefix ? std::find(names, s.kv.hashes.end(), s.awaited) - names : -1;
  std::string out = absl::StrCat(
      NameOf(&s), " state ", static_cast<int>(s.state), " place ", static_cast<int>(s.place), " ",
      awaited, " slot ", s.slot, " tokens ", s.tokens.size(), " computed ", s.num_computed, "+",
      s.num_inflight, " steps ", s.num_steps, " pending ", s.num_pending, " paused ", s.paused,
      " holes ", Describe(s.holes), "/", s.holes_launched, " kv ", s.kv.admitted, ",",
      s.kv.num_tokens, ",", s.kv.num_announced_pages, " preempted ", s.num_preemptions);
  for (const KvGroupState& group : s.kv.groups) {
    absl::StrAppend(&out, " pages ", group.first_live_page, ":", absl::StrJoin(group.pages, ","));
  }
  return absl::StrCat(out, "\n");
}

struct Live {
  int32_t num_copies = 1;
  RequestOutput out;
};

// A run with random messages: two models, adapters of one model, a small pool.
class RandomRun {
 public:
  RandomRun(int depth, int seed) : random_(seed) {
    stack_.models = {FakeModel("a", {0, 10}, 4, 64), FakeModel("b", {0}, 4, 64)};
    stack_.num_slabs = 49;
    stack_.depth = depth;
    stack_.adapter_pages = {1, 3, 4, 9, 2};
    stack_.options.max_num_seqs = 6;
    stack_.options.max_num_batched_tokens = 32;
    stack_.options.target_step_us = 1'150;
    stack_.options.target_step_ratio = 1;
    stack_.options.ageing_us = 20'000;
    stack_.options.adapter_host_bytes = 700;
    stack_.Start();
    stack_.core->set_plan_observer(
        [this](const StepPlan& plan) { steps_.push_back(Describe(plan)); });
  }

  CoreStack& stack() { return stack_; }
  const std::vector<std::string>& steps() const { return steps_; }

  // Makes the random changes before the next round.
  void Turn() {
    if (live_.size() < 12 && Pick(3) == 0) Submit();
    if (!live_.empty() && Pick(8) == 0) Disturb();
    if (Pick(2) == 0) TurnLoader();
    if (Pick(6) == 0) PutKvInto();
    if (Pick(50) == 0) Resume();
  }
  void Finish() {
    Resume();
    stack_.RunAll();
  }
  void Forget() {
    for (auto it = live_.begin(); it != live_.end();) {
      const RequestOutput& out = it->second->out;
      const auto num_finished = std::count_if(
          out.begin(), out.end(), [](const auto& output) { return output.second.finished; });
      it = num_finished == it->second->num_copies ? live_.erase(it) : std::next(it);
    }
  }

  // The observable state as text, without the number of lookups in the KV store.
  std::string State() {
    const KvUsage u = stack_.kv->usage();
    const KvStats& k = stack_.kv->stats();
    const Scheduler& scheduler = stack_.core->scheduler();
    std::string out = absl::StrCat(
        "slabs ", u.total_slabs, ",", u.free_slabs, ",", u.cached_slabs, ",", u.kv_slabs, ",",
        u.adapter_slabs, ",", u.staging_slabs, " store ", k.evicted_pages, ",", k.hit_tokens, ",",
        k.lookup_tokens, " ticks ", stack_.kv->ticks(), " delay ", scheduler.PredictQueueDelayUs(),
        " reserve ", scheduler.NumReservedSlabs(), " loads ", stack_.loader->is_reading(), ",",
        stack_.loader->is_copying(), " registry ", stack_.adapters->registry()->revision(), "\n");
    for (const AdapterListing& a : stack_.adapters->registry()->List()) {
      absl::StrAppend(&out, a.name, " ", static_cast<int>(a.residency), " ", a.pinned, " ",
                      a.last_use_us, " ", a.num_running, "\n");
    }
    std::vector<Sequence*> sequences = scheduler.Running();
    const std::vector<Sequence*> waiting = scheduler.Waiting();
    sequences.insert(sequences.end(), waiting.begin(), waiting.end());
    std::sort(sequences.begin(), sequences.end(), [](const Sequence* a, const Sequence* b) {
      return std::tie(a->request->id, a->index) < std::tie(b->request->id, b->index);
    });
    for (const Sequence* s : sequences) absl::StrAppend(&out, Describe(*s));
    return out;
  }

 private:
  int Pick(int bound) { return static_cast<int>(random_() % static_cast<uint32_t>(bound)); }

  void Submit() {
    auto live = std::make_unique<Live>();
    auto request = stack_.NewRequest(FakePrompt(Pick(3), 1 + Pick(35)), 1 + Pick(20), &live->out);
    request->model = Pick(4) == 0 ? 1 : 0;
    request->priority = static_cast<Priority>(Pick(kNumPriorities));
    request->tenant = Pick(2) == 0 ? "x" : "y";
    request->sampling.n = live->num_copies = 1 + Pick(3) / 2;
    request->bypass_prefix = Pick(8) == 0;
    if (Pick(8) == 0) request->prompt_logprobs = 0;
    const int adapter = Pick(7) - 2;
    if (adapter >= 0 && request->model == 0) request->adapter = stack_.adapters->resolved(adapter);
    live_[stack_.Submit(std::move(request))] = std::move(live);
  }
  void Disturb() {
    const auto it = std::next(live_.begin(), Pick(static_cast<int>(live_.size())));
    const int verb = Pick(8);
    if (verb == 0) stack_.core->Cancel(it->first, -1, CancelReason::kClient);
    if (verb > 0) stack_.core->Throttle(it->first, verb < 4);
  }
  void Resume() {
    for (auto& [id, live] : live_) stack_.core->Throttle(id, false);
  }
  void TurnLoader() {
    FakeAdapterLoader* const loader = stack_.loader;
    if (loader->is_reading()) {
      loader->FinishRead(stack_.adapters->Image(loader->next_read()));
    }
    if (loader->is_copying() && Pick(2) == 0) loader->FinishCopy();
  }
  void PutKvInto() {
    for (Sequence* s : stack_.core->scheduler().Running()) {
      const bool is_scored = s->request->prompt_logprobs >= 0;
      if (is_scored || s->need != kNoNeed || !TakesKv(*s)) continue;
      const int64_t end = s->num_tokens() - 1;
      PutKv({stack_.core.get(), stack_.kv, stack_.runner}, s, end, {{s->num_computed, end}});
      return;
    }
  }

  std::mt19937 random_;
  std::map<uint64_t, std::unique_ptr<Live>> live_;  // outlives the stack
  std::vector<std::string> steps_;                  // the launched plans as text
  CoreStack stack_;
};

class PlanTest : public ::testing::TestWithParam<int> {};

TEST_P(PlanTest, ADroppedPlanChangesNothing) {
  RandomRun run(GetParam(), 5);
  int num_wants = 0;
  int num_waits = 0;
  int num_preempts = 0;
  int num_admits = 0;
  for (int round = 0; round < kRounds && !HasFailure(); ++round) {
    run.Turn();
    const std::string before = run.State();
    const StepPlan plan = run.stack().core->Foresee();
    EXPECT_EQ(run.State(), before) << "round " << round;
    run.stack().core->CheckInvariants();
    EXPECT_EQ(Describe(run.stack().core->Foresee()), Describe(plan)) << "round " << round;
    EXPECT_TRUE(plan.page_ops.empty());
    num_wants += plan.wants.empty() ? 0 : 1;
    num_waits += plan.waits.empty() ? 0 : 1;
    num_preempts += plan.preempted.empty() ? 0 : 1;
    for (const PlanEntry& entry : plan.entries) num_admits += entry.admits ? 1 : 0;
    run.stack().Round();
    run.Forget();
  }
  EXPECT_GT(num_wants, kRounds / 100);
  EXPECT_GT(num_waits, 0);
  EXPECT_GT(num_preempts, 0);
  EXPECT_GT(num_admits, kRounds / 50);
  run.Finish();
  std::cerr << ' ' << num_preempts << ' ' << num_wants << '\n';
}

TEST_P(PlanTest, StepsAreThoseOfARunWithoutDroppedPlans) {
  RandomRun plain(GetParam(), 9);
  RandomRun planned(GetParam(), 9);
  for (int round = 0; round < kRounds; ++round) {
    plain.Turn();
    planned.Turn();
    for (int i = round % 4; i > 0; --i) planned.stack().core->Foresee();
    plain.stack().Round();
    planned.stack().Round();
    ASSERT_EQ(plain.State(), planned.State()) << "round " << round;
    plain.Forget();
    planned.Forget();
  }
  plain.Finish();
  planned.Finish();
  EXPECT_EQ(plain.steps(), planned.steps());
  EXPECT_GT(plain.steps().size(), static_cast<size_t>(kRounds / 2));
}

INSTANTIATE_TEST_SUITE_P(Depth, PlanTest, ::testing::Values(1, 2));

}  // namespace
}  // namespace tessera::testing
