// The engine without its thread: the caller applies messages to the core and lets it launch steps,
// one call at a time. In production the caller is the loop in engine.cc; in tests the caller is
// tests/lib/core_driver.h, with a fake runner and a manual clock. No call waits for a step: the end
// of a step is a message in a later round.
//
// Every sequence ends with exactly one kFinished event. A sequence that ends while a launched step
// still computes for it keeps its pages until that step has retired, and the step's result for it
// is dropped.
//
// Owned by the engine; engine thread only.
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
#include "scheduler/step/tenant_numbers.h"

namespace tessera {

// The state of the oldest step in flight.
enum class StepHealth : int32_t {
  // No step is in flight, or the step has run for at most 10 s or ten times its prediction.
  kGood,
  // The step has run for more than 10 s, and its model has run too few steps for a prediction.
  kUnknown,
  // The step has run for more than 10 s and more than ten times its prediction: the device hangs.
  kOverdue,
};

class EngineCore {
 public:
  // `stats` outlives the core. `on_left_queue` is called once per sequence, when its first step is
  // launched or when the sequence ends before that. `loader` reads options.adapters; it is null if
  // options.adapters is null. Without a `policy`, the core uses the policy that the options name.
  EngineCore(EngineOptions options, std::unique_ptr<KvManager> kv, std::unique_ptr<Runner> runner,
             std::unique_ptr<AdapterLoader> loader, EngineStats* stats,
             std::function<void()> on_left_queue, std::unique_ptr<QueuePolicy> policy = nullptr);
  ~EngineCore();

  // Sets the time that all calls use until the next round.
  void BeginRound(int64_t now_us) { clock_.Set(now_us); }

  // The calls from here to OnAdapterCopied are messages. In each round the caller applies the ends
  // of steps first.

  // Retires a step. REQUIRES: `step_id` is the oldest step in flight.
  void OnStepDone(uint64_t step_id);
  void Submit(std::unique_ptr<Request> request);
  void Cancel(uint64_t request_id, int32_t index, CancelReason reason);
  void CancelAll(CancelReason reason);
  void Throttle(uint64_t request_id, bool paused);
  ProbeResult Probe(const ProbeQuery& query);
  void LoadAdapter(AdapterId id, bool pin, AdapterWait wait);
  void UnpinAdapter(AdapterId id);
  void UnloadAdapter(AdapterId id, bool unpin);
  // Reports of the adapter loader.
  void OnAdapterRead(AdapterId id, absl::StatusOr<AdapterImage> image, int64_t read_us);
  void OnAdapterCopied(AdapterId id);

  // The caller has written KV to the pages of a running sequence between steps: the tokens before
  // `num_computed` have their KV, except the tokens of `holes`. Approximate KV is marked before
  // this call (KvManager::MarkApproximate).
  // REQUIRES: as Scheduler::TakeComputed.
  void TakeComputed(Sequence* sequence, int64_t num_computed, absl::Span<const TokenRange> holes) {
    scheduler_.TakeComputed(sequence, num_computed, holes);
  }

  // The root of the run names of a submitted request (RequestRoots::ExportRootOf).
  std::optional<PageHash> ExportRoot(const Request& request) const {
    return roots_.ExportRootOf(request);
  }

  Runner* runner() { return runner_.get(); }

  // Ends requests whose time limit has expired, then launches a step if something can run and the
  // runner accepts a step. If LaunchStep returns true, the caller must call it again in this round.
  // If it returns false, nothing can be done before the next message or NextDeadlineUs.
  bool LaunchStep();
  // Publishes the gauges and checks the oldest step in flight. A step that becomes overdue is
  // logged once.
  StepHealth EndRound();

  // Clock time of the next time limit; -1: no request has a time limit.
  int64_t NextDeadlineUs() const;
  int64_t num_unfinished() const { return num_unfinished_; }
  int num_inflight() const { return static_cast<int>(inflight_.size()); }
  const Scheduler& scheduler() const { return scheduler_; }
  const KvManager& kv() const { return *kv_; }

  // Plans a step and drops the plan, so nothing changes. For tests.
  StepPlan Foresee() { return scheduler_.Plan(); }
  // The observer sees each plan before it is launched. For tests.
  void set_plan_observer(std::function<void(const StepPlan&)> observer) {
    plan_observer_ = std::move(observer);
  }
  // CHECK-fails unless sequences, lists, slots and pages agree.
  void CheckInvariants() const;

 private:
  struct RequestState {
    std::unique_ptr<Request> request;
    std::vector<std::unique_ptr<Sequence>> sequences;  // [n]; null after a sequence was removed
    int32_t num_alive = 0;                             // number of sequences that are not null
  };
  // The memory that the runner reads and writes for a step. Later steps reuse it.
  struct StepBuffers {
    BuiltBatch built;
    StepResult result;
  };
  struct InflightStep {
    StepPlan plan;
    std::unique_ptr<StepBuffers> buffers;
    // Clock time of the step's launch, or of the end of the step before it if that was later.
    int64_t begin_us = 0;
    double predicted_us = 0.0;  // 0: no prediction
    bool reported = false;      // the step was logged as overdue
  };

  void Launch(StepPlan plan);
  void RetireEntry(const PlanEntry& entry, const StepResult& result, int32_t* next_row,
                   int64_t* next_tap);
  void TakePromptLogprobs(const PlanEntry& entry, const StepResult& result, int32_t first_row);
  void TakeHidden(const PlanEntry& entry, const StepResult& result, int64_t first_float);
  void FinishEmbedding(Sequence* sequence);
  // Appends a sampled token and sends it to the sink. Returns false if the token ended the
  // sequence; the sequence may be destroyed then.
  bool TakeToken(Sequence* sequence, const StepResult& result, const SampledRow& row);
  void ExpireTimeLimits();
  // Files sequences whose needs or prefixes have settled, ends sequences whose adapters could not
  // be loaded, and answers operators whose adapters are in the pool. Returns whether a need
  // changed.
  bool Settle();
  void ApplyChange(const NeedChange& change);
  std::unique_ptr<Sequence> NewSequence(const Request& request, int32_t index,
                                        const PageHash& root) const;
  // Counts a request of the tenant and returns its number.
  int32_t EnterTenant(const std::string& name);
  int64_t now_us() const { return clock_.NowUs(); }
  void LeaveQueue(Sequence* sequence);
  // Sends the last event. Frees the pages at once, or when the last launched step that computes for
  // the sequence has retired.
  void Finish(Sequence* sequence, TokenEvent event, FinishReason reason);
  void FinishSimple(Sequence* sequence, FinishReason reason);
  void FinishUnfit(Sequence* sequence);
  // Ends a sequence whose result is NaN or infinite. `what` names the result.
  void FinishNonfinite(Sequence* sequence, const char* what);
  void ForgetIfIdle(Sequence* sequence);
  StepHealth CheckOldestStep();
  void ReportOverdue(const InflightStep& step) const;
  void PublishGauges();

  const EngineOptions options_;
  RequestRoots roots_;  // reads options_
  const std::unique_ptr<KvManager> kv_;
  std::deque<InflightStep> inflight_;  // outlives the runner, which uses the steps' buffers
  std::vector<std::unique_ptr<StepBuffers>> spare_buffers_;
  const std::unique_ptr<Runner> runner_;
  RoundClock clock_;
  EngineStats* const stats_;
  const std::function<void()> on_left_queue_;
  const std::unique_ptr<AdapterStore> adapters_;
  // The loader's threads use the runner and the images of the adapter store.
  const std::unique_ptr<AdapterLoader> loader_;
  Residency residency_;
  OperatorLoads operator_loads_;
  Scheduler scheduler_;
  BatchBuilder builder_;
  TenantNumbers tenants_;
  absl::flat_hash_map<uint64_t, RequestState> requests_;
  std::set<std::pair<int64_t, uint64_t>> time_limits_;  // {deadline, request id}
  std::function<void(const StepPlan&)> plan_observer_;
  uint64_t next_step_id_ = 1;
  int64_t num_unfinished_ = 0;
};

}  // namespace tessera
