// The engine without its thread: messages in, steps out, one call at a time. The loop in engine.cc
// drives it; tests drive it by hand with a fake runner and a manual clock
// (tests/lib/core_driver.h). It never waits: a step is launched, and some rounds later its end is a
// message like any other.
//
// Every sequence ends by exactly one kFinished event. A sequence that ends while a launched step
// still computes for it keeps its pages until that step has retired; its result is dropped.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "scheduler/plan/scheduler.h"
#include "scheduler/residency/adapters/adapter_store.h"
#include "scheduler/residency/operator_loads.h"
#include "scheduler/residency/residency.h"
#include "scheduler/step/batch_builder.h"
#include "scheduler/step/engine.h"
#include "scheduler/step/request_roots.h"

namespace tessera {

// How the oldest step in flight fares.
enum class StepHealth : int32_t {
  kGood,     // none is in flight, or it may take that long
  kUnknown,  // it takes longer than 10 s, and its model has run too few steps for a prediction
  kOverdue,  // it takes longer than 10 s and ten times its prediction: the device hangs
};

class EngineCore {
 public:
  // `stats` outlives the core. on_left_queue() is called once per sequence, when its first step is
  // launched or it ends before. `loader`: of options.adapters; null when that is. `policy`: null is
  // the one that the options name.
  EngineCore(EngineOptions options, std::unique_ptr<KvManager> kv, std::unique_ptr<Runner> runner,
             std::unique_ptr<AdapterLoader> loader, EngineStats* stats,
             std::function<void()> on_left_queue, std::unique_ptr<QueuePolicy> policy = nullptr);
  ~EngineCore();

  // The clock of all that follows until the next round.
  void BeginRound(int64_t now_us) { clock_.Set(now_us); }

  // Messages. The ends of steps are applied before the others of a round.
  // REQUIRES: `step_id` is the oldest step in flight.
  void OnStepDone(uint64_t step_id);
  void Submit(std::unique_ptr<Request> request);
  void Cancel(uint64_t request_id, int32_t index, CancelReason reason);
  void CancelAll(CancelReason reason);
  void Throttle(uint64_t request_id, bool paused);
  ProbeResult Probe(const ProbeQuery& query);
  void LoadAdapter(AdapterId id, bool pin, AdapterWait wait);
  void UnpinAdapter(AdapterId id);
  void UnloadAdapter(AdapterId id);
  // The loader's reports.
  void OnAdapterRead(AdapterId id, absl::StatusOr<AdapterImage> image, int64_t read_us);
  void OnAdapterCopied(AdapterId id);

  // KV was put into the pages of a running sequence between steps: the tokens before `num_computed`
  // have theirs, but for `holes`. REQUIRES: as Scheduler::TakeComputed.
  void TakeComputed(Sequence* sequence, int64_t num_computed, absl::Span<const TokenRange> holes) {
    scheduler_.TakeComputed(sequence, num_computed, holes);
  }

  // The root of the run names of a submitted request (RequestRoots::ExportRootOf).
  std::optional<PageHash> ExportRoot(const Request& request) const {
    return roots_.ExportRootOf(request);
  }

  Runner* runner() { return runner_.get(); }

  // Ends what has passed its time limit, then launches a step if there is something to run and room
  // in the runner. Returns whether it did anything, and so is to be called again: when it returns
  // false there is nothing to do until a message or NextDeadlineUs.
  bool LaunchStep();
  // Tells the gauges, and looks after the step in flight: one that becomes overdue is logged.
  StepHealth EndRound();

  // Clock time of the next time limit; -1: none.
  int64_t NextDeadlineUs() const;
  int64_t num_unfinished() const { return num_unfinished_; }
  int num_inflight() const { return static_cast<int>(inflight_.size()); }
  const Scheduler& scheduler() const { return scheduler_; }
  const KvManager& kv() const { return *kv_; }

  // What a step that was planned now would compute, on scratch: nothing changes. For tests.
  StepPlan Foresee() { return scheduler_.Plan(); }
  // Tests look at each plan before it is launched.
  void set_plan_observer(std::function<void(const StepPlan&)> observer) {
    plan_observer_ = std::move(observer);
  }
  // CHECK-fails unless sequences, lists, slots and pages agree.
  void CheckInvariants() const;

 private:
  struct RequestState {
    std::unique_ptr<Request> request;
    std::vector<std::unique_ptr<Sequence>> sequences;  // by index; null once gone
    int32_t num_alive = 0;
  };
  struct Tenant {
    int32_t number = 0;
    int64_t num_requests = 0;
  };
  // What the runner reads and writes, kept from step to step.
  struct StepBuffers {
    BuiltBatch built;
    StepResult result;
  };
  struct InflightStep {
    StepPlan plan;
    std::unique_ptr<StepBuffers> buffers;
    int64_t begin_us = 0;       // launched, or the one before it retired if that was later
    double predicted_us = 0.0;  // 0: unknown
    bool reported = false;      // as overdue
  };

  void Launch(StepPlan plan);
  void RetireEntry(const PlanEntry& entry, const StepResult& result, int32_t* next_row,
                   int64_t* next_tap);
  void TakePromptLogprobs(const PlanEntry& entry, const StepResult& result, int32_t first_row);
  void TakeHidden(const PlanEntry& entry, const StepResult& result, int64_t first_float);
  void FinishEmbedding(Sequence* sequence);
  // Appends and reports a sampled token. False if it ended the sequence, which may be gone then.
  bool TakeToken(Sequence* sequence, const StepResult& result, const SampledRow& row);
  void ExpireTimeLimits();
  // Files what has settled, ends what waits for adapters that could not be loaded, and answers
  // operators whose adapters are there. Whether anything has settled.
  bool Settle();
  void ApplyChange(const NeedChange& change);
  std::unique_ptr<Sequence> NewSequence(const Request& request, int32_t index,
                                        const PageHash& root) const;
  int32_t EnterTenant(const std::string& name);
  void LeaveTenant(const std::string& name);
  int64_t now_us() const { return clock_.NowUs(); }
  void LeaveQueue(Sequence* sequence);
  // Sends the last event; frees pages at once, or when the last inflight step has retired.
  void Finish(Sequence* sequence, TokenEvent event, FinishReason reason);
  void FinishSimple(Sequence* sequence, FinishReason reason);
  void FinishUnfit(Sequence* sequence);
  void ForgetIfIdle(Sequence* sequence);
  StepHealth CheckOldestStep();
  void ReportOverdue(const InflightStep& step) const;
  void PublishGauges();

  const EngineOptions options_;
  RequestRoots roots_;  // reads options_
  const std::unique_ptr<KvManager> kv_;
  std::deque<InflightStep> inflight_;  // outlives the runner, which uses its buffers
  std::vector<std::unique_ptr<StepBuffers>> spare_buffers_;
  const std::unique_ptr<Runner> runner_;
  RoundClock clock_;
  EngineStats* const stats_;
  const std::function<void()> on_left_queue_;
  const std::unique_ptr<AdapterStore> adapters_;
  const std::unique_ptr<AdapterLoader>
      loader_;  // its threads use the runner and the store's images
  Residency residency_;
  OperatorLoads operator_loads_;
  Scheduler scheduler_;
  BatchBuilder builder_;
  absl::flat_hash_map<std::string, Tenant> tenants_;  // with requests
  std::vector<int32_t> free_tenants_;                 // numbers
  absl::flat_hash_map<uint64_t, RequestState> requests_;
  std::set<std::pair<int64_t, uint64_t>> time_limits_;  // {deadline, request id}
  std::function<void(const StepPlan&)> plan_observer_;
  uint64_t next_step_id_ = 1;
  int64_t num_unfinished_ = 0;
};

}  // namespace tessera
