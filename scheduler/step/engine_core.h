// The engine without its thread: messages in, steps out, one call at a time. The loop in engine.cc
// drives it; tests drive it by hand with a fake runner and a manual clock.
//
// Every sequence ends by exactly one kFinished event. A sequence that ends while a launched step
// still computes for it keeps its pages until that step has retired; its result is dropped.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "scheduler/plan/scheduler.h"
#include "scheduler/step/batch_builder.h"
#include "scheduler/step/engine.h"

namespace tessera {

class EngineCore {
 public:
  // `stats` outlives the core. on_left_queue() is called once per sequence, when its first step is
  // launched or it ends before.
  EngineCore(EngineOptions options, std::unique_ptr<KvManager> kv, std::unique_ptr<Runner> runner,
             const Clock* clock, EngineStats* stats, std::function<void()> on_left_queue);
  ~EngineCore();

  // Messages.
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

  // Once, before any request has an adapter. REQUIRES: options.adapters is not null.
  void StartAdapters(std::unique_ptr<AdapterLoader> loader);
  Runner* runner() { return runner_.get(); }

  // Launches a step if there is something to run and room in the runner; retires the oldest when
  // the runner is full or nothing more can be launched. Returns false when there is nothing to do
  // until a message or NextDeadlineUs.
  bool RunOnce();

  // Clock time of the next time limit; -1: none.
  int64_t NextDeadlineUs() const;
  int64_t num_unfinished() const { return num_unfinished_; }
  const Scheduler& scheduler() const { return scheduler_; }
  const KvManager& kv() const { return *kv_; }

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
  struct AwaitedAdapter {
    AdapterId id = kNoAdapter;
    AdapterWait wait;
  };
  struct InflightStep {
    StepPlan plan;
    std::unique_ptr<BuiltBatch> built;
  };

  void Launch(StepPlan plan);
  void RetireOldest();
  void RetireEntry(const PlanEntry& entry, const StepResult& result, int32_t* next_row,
                   int64_t* next_tap, int64_t now_us);
  void TakePromptLogprobs(const PlanEntry& entry, const StepResult& result, int32_t first_row);
  void TakeHidden(const PlanEntry& entry, const StepResult& result, int64_t first_float);
  void FinishEmbedding(Sequence* sequence);
  // Appends and reports a sampled token. False if it ended the sequence, which may be gone then.
  bool TakeToken(Sequence* sequence, const StepResult& result, const SampledRow& row,
                 int64_t now_us);
  void ExpireTimeLimits();
  // Ends what waits for adapters that could not be loaded, and answers operators whose adapters are
  // there. Whether it did anything.
  bool SettleAdapters();
  void LeaveQueue(Sequence* sequence);
  // Sends the last event; frees pages at once, or when the last inflight step has retired.
  void Finish(Sequence* sequence, TokenEvent event, FinishReason reason);
  void FinishSimple(Sequence* sequence, FinishReason reason);
  void ForgetIfIdle(Sequence* sequence);
  void PublishGauges();

  const EngineOptions options_;
  const std::unique_ptr<KvManager> kv_;
  const std::unique_ptr<Runner> runner_;
  const Clock* const clock_;
  EngineStats* const stats_;
  const std::function<void()> on_left_queue_;
  Scheduler scheduler_;
  BatchBuilder builder_;
  std::unique_ptr<AdapterStore> adapters_;
  std::unique_ptr<AdapterLoader> loader_;  // its threads use the runner
  std::vector<AwaitedAdapter> awaited_adapters_;
  absl::flat_hash_map<uint64_t, RequestState> requests_;
  std::set<std::pair<int64_t, uint64_t>> time_limits_;  // {deadline, request id}
  std::deque<InflightStep> inflight_;
  std::vector<std::unique_ptr<BuiltBatch>> spare_batches_;
  std::function<void(const StepPlan&)> plan_observer_;
  uint64_t next_step_id_ = 1;
  uint64_t next_private_root_ = 1;
  int64_t num_unfinished_ = 0;
};

}  // namespace tessera
