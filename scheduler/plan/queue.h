// The sequences that wait for admission, filed in lanes by model, tenant and the policy's lane
// number. A lane is sorted by arrival and split in two parts at an arrival time. The policy
// guarantees that the smallest key of a part is at one of the part's ends. The queue's order is
// therefore a merge of the ends of all parts: a plan looks only at the sequences that it admits and
// at the ends of each lane, however many sequences wait.
//
// A sequence's need is the adapter that must be in the page pool before the sequence may run
// (residency.h). A sequence that cannot run yet is in no lane: its need is loading, another
// sequence computes its prefix, or its reader is slow. The queue does not poll such a sequence, but
// files the sequence in a lane again when the need is loaded or has failed, when the prefix is
// published or given up, or when the reader continues.
//
// Owned by the scheduler; engine thread only.
#pragma once

#include <cstdint>
#include <functional>
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
  // `policy` outlives the queue. `step_tokens`: the number of prompt tokens that cost() assumes for
  // each step.
  WaitingQueue(const QueuePolicy* policy, size_t num_models, int64_t step_tokens);

  // Files a sequence as paused, as ready, or as needy (`ready` is false: its need is not in the
  // pool). REQUIRES: the sequence is not in the queue.
  void Insert(Sequence* sequence, bool ready);
  void Erase(Sequence* sequence);
  // Takes a sequence out of the lanes while its reader is slow, or files it again. REQUIRES: the
  // sequence is in the queue.
  void SetPaused(Sequence* sequence, bool paused, bool ready);

  // Takes a sequence out of the lanes until WakeNeed is called for its need.
  void AwaitNeed(Sequence* sequence);
  // Takes a ready sequence out of the lanes until WakePrefix is called for `page` of its prefix.
  void AwaitPrefix(Sequence* sequence, const PageHash& page);
  // Called when the state of a need has changed. Files the sequences that have the need as ready,
  // or as needy if `ready` is false (the need is not in the pool). Paused sequences and sequences
  // that await a prefix stay where they are.
  void WakeNeed(NeedId need, bool ready);
  // Files the sequences that await the page, which is published or given up. `is_ready` tells
  // whether a sequence's need is still in the pool.
  void WakePrefix(int32_t model, const PageHash& page,
                  const std::function<bool(const Sequence&)>& is_ready);
  // All sequences in the queue that have the need, sorted by request id and index.
  std::vector<Sequence*> WithNeed(NeedId need) const;

  // The number of all sequences in the queue, and of those that are paused.
  int64_t size() const { return num_waiting_; }
  int64_t num_paused() const { return static_cast<int64_t>(paused_.size()); }
  // The number of sequences, of one model or of all, that are not paused.
  int64_t num_active(int32_t model) const { return models_[model].num_active; }
  int64_t num_active() const { return num_active_; }
  // The number of distinct needs that AwaitNeed sequences of the model wait for.
  int64_t num_loading_needs(int32_t model) const;
  // The summed cost of the steps that compute the tokens of the sequences that are not paused.
  const StepCost& cost(int32_t model) const { return models_[model].cost; }

  // The summed predicted numbers of tokens that the sequences of cost() will still generate.
  int64_t expected_tokens(int32_t model) const { return models_[model].expected_tokens; }

  // CHECK-fails unless places, lanes and sums agree.
  void CheckInvariants() const;
  // All sequences in the queue, in no order, in linear time. For tests and CheckInvariants.
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
    absl::flat_hash_map<LaneKey, Lane> lanes;      // an empty lane is erased
    absl::flat_hash_map<NeedId, int64_t> loading;  // number of AwaitNeed sequences, by need
    int64_t num_active = 0;
    StepCost cost;
    int64_t expected_tokens = 0;
  };
  using PrefixName = std::pair<PageHash, int32_t>;

 public:
  // Visits the ready and the needy sequences of a model in the policy's order. REQUIRES: the queue
  // does not change while a cursor exists.
  class Cursor final {
   public:
    Cursor(const WaitingQueue& queue, int32_t model, int64_t now_us);
    // The next sequence; null when no sequence is left.
    Sequence* Next();
    // The share in the key of the next sequence; infinite when no sequence is left.
    double NextShare() const;
    // Adds to the share of the tenant's remaining sequences, as the plan has admitted one of them.
    void Charge(int32_t tenant, double share);
    // Skip all remaining sequences of a tenant, all ready or all needy sequences.
    void SkipTenant(int32_t tenant);
    void SkipReady();
    void SkipNeedy();

   private:
    // The remaining items of one part of a lane.
    struct Span {
      LaneKey key;
      Lane::const_iterator first;
      Lane::const_iterator last;  // the last remaining item, not one past it
      bool from_back = false;     // the item with the smaller key is `last`, not `first`
      QueueKey best;              // the smaller key of the two ends
    };

    void AddSpan(const LaneKey& key, Lane::const_iterator first, Lane::const_iterator end);
    void Pick(Span* span) const;
    template <class Skip>
    void SkipIf(Skip skip);

    const QueuePolicy& policy_;
    const int64_t now_us_;
    std::vector<Span> heap_;                        // the span with the smallest `best` is first
    absl::flat_hash_map<int32_t, double> charged_;  // by tenant
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
