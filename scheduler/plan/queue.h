// The sequences that wait for admission, filed by model, tenant and the policy's lane. A lane is
// sorted by arrival, and the policy tells where to split it so that the next one to be served is at
// an end of a part. The queue's order is a merge of these ends: a plan looks at what it admits and
// at one sequence of each part, however many wait.
//
// What cannot run yet is out of the lanes: sequences whose need is on its way, whose prefix another
// sequence computes, or whose reader is slow. Nothing polls them; they are filed again when the
// need or the prefix settles.
//
// Owned by the scheduler; engine thread only.
#pragma once

#include <cstdint>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "scheduler/plan/queue_policy.h"
#include "scheduler/plan/sequence.h"

namespace tessera {

class WaitingQueue final {
 public:
  // `policy` outlives the queue. `step_tokens`: of a step that computes a prompt, for cost().
  WaitingQueue(const QueuePolicy* policy, size_t num_models, int64_t step_tokens);

  // Files a sequence: as paused, needy (`ready` false) or ready. REQUIRES: it is not in the queue.
  void Insert(Sequence* sequence, bool ready);
  void Erase(Sequence* sequence);
  // Its reader is slow, or reads again. REQUIRES: in the queue.
  void SetPaused(Sequence* sequence, bool paused, bool ready);

  // Takes a sequence out of the lanes until its need changes.
  void AwaitNeed(Sequence* sequence);
  // Takes a ready sequence out of the lanes until that page of its prefix settles.
  void AwaitPrefix(Sequence* sequence, const PageHash& page);
  // A need changed: those that have it are filed as ready or as needy.
  void WakeNeed(NeedId need, bool ready);
  void WakePrefix(int32_t model, const PageHash& page);
  // All sequences in the queue that have the need, by request and index.
  std::vector<Sequence*> WithNeed(NeedId need) const;
  bool HasNeed(NeedId need) const { return by_need_.contains(need); }

  // Sequences in the queue, and those of a model that are not paused.
  int64_t size() const { return num_waiting_; }
  int64_t num_active(int32_t model) const { return models_[model].num_active; }
  int64_t num_active() const { return num_active_; }
  // Distinct needs that sequences of the model are waiting for.
  int64_t num_loading_needs(int32_t model) const;
  // The sum over the steps that compute the prompts of what is not paused.
  const StepCost& cost(int32_t model) const { return models_[model].cost; }

  // CHECK-fails unless places, lanes and sums agree.
  void CheckInvariants() const;
  // In no order; linear. For tests and failures.
  std::vector<Sequence*> All() const;

 private:
  struct Item {
    int64_t arrival_us = 0;
    uint64_t request_id = 0;
    int32_t index = 0;
    Sequence* sequence = nullptr;

    friend bool operator<(const Item& a, const Item& b) {
      return std::tie(a.arrival_us, a.request_id, a.index) <
             std::tie(b.arrival_us, b.request_id, b.index);
    }
  };
  using Lane = absl::btree_set<Item>;
  struct LaneKey {
    int32_t tenant = 0;
    int32_t lane = 0;
    bool needy = false;

    friend bool operator==(const LaneKey&, const LaneKey&) = default;
    template <class H>
    friend H AbslHashValue(H h, const LaneKey& key) {
      return H::combine(std::move(h), key.tenant, key.lane, key.needy);
    }
  };
  struct Model {
    absl::flat_hash_map<LaneKey, Lane> lanes;  // none is empty
    absl::flat_hash_map<NeedId, int64_t> loading;
    int64_t num_active = 0;
    StepCost cost;
  };
  using PrefixName = std::pair<PageHash, int32_t>;

 public:
  // Walks the ready and the needy sequences of a model in the policy's order. The queue must not
  // change meanwhile.
  class Cursor final {
   public:
    Cursor(const WaitingQueue& queue, int32_t model, int64_t now_us);
    // The next one; null: none is left.
    Sequence* Next();
    // Skips what is left of a tenant, or all ready ones.
    void SkipTenant(int32_t tenant);
    void SkipReady();

   private:
    struct Span {
      LaneKey key;
      Lane::const_iterator first;
      Lane::const_iterator last;  // the last one that is left, not the end
      bool from_back = false;
      QueueKey best;
    };

    void AddSpan(const LaneKey& key, Lane::const_iterator begin, Lane::const_iterator end);
    void Pick(Span* span) const;
    template <class Skip>
    void SkipIf(Skip skip);

    const QueuePolicy& policy_;
    const int64_t now_us_;
    std::vector<Span> heap_;  // the best is first
  };

 private:
  static Item ItemOf(Sequence* sequence) {
    return {sequence->request->arrival_us, sequence->request->id, sequence->index, sequence};
  }
  LaneKey KeyOf(const Sequence& sequence, bool needy) const {
    return {sequence.tenant, policy_->Lane(sequence), needy};
  }
  void File(Sequence* sequence, QueuePlace place);
  void Unfile(Sequence* sequence);
  void Count(const Sequence& sequence, int sign);

  const QueuePolicy* const policy_;
  const int64_t step_tokens_;
  std::vector<Model> models_;
  absl::flat_hash_map<NeedId, absl::flat_hash_set<Sequence*>> by_need_;
  absl::flat_hash_map<PrefixName, absl::flat_hash_set<Sequence*>> by_prefix_;
  absl::flat_hash_set<Sequence*> paused_;
  int64_t num_waiting_ = 0;
  int64_t num_active_ = 0;
};

}  // namespace tessera
