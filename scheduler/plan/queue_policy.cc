#include "scheduler/plan/queue_policy.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

class PriorityPolicy final : public QueuePolicy {
 public:
  explicit PriorityPolicy(int64_t ageing_us) : ageing_us_(ageing_us) {}

  // Among sequences of one priority, an older one has gained at least as many classes as a newer
  // one. The oldest sequence of a lane therefore has the smallest key.
  int32_t Lane(const Sequence& sequence) const override {
    return static_cast<int32_t>(sequence.request->priority);
  }

  QueueKey Key(const Sequence& sequence, int64_t now_us) const override {
    const Request& request = *sequence.request;
    const int64_t waited_us = std::max<int64_t>(0, now_us - request.arrival_us);
    const int64_t gained = ageing_us_ > 0 ? waited_us / ageing_us_ : 0;
    const int64_t priority =
        std::min<int64_t>(kNumPriorities - 1, static_cast<int64_t>(request.priority) + gained);
    return {0.0, static_cast<int32_t>(kNumPriorities - 1 - priority), request.arrival_us,
            request.id, sequence.index};
  }

 private:
  const int64_t ageing_us_;
};

class FairPolicy final : public QueuePolicy {
 public:
  FairPolicy(int64_t ageing_us, const TenantAccounts* accounts)
      : within_(ageing_us), accounts_(*accounts) {}

  int32_t Lane(const Sequence& sequence) const override { return within_.Lane(sequence); }
  bool DividesByTenants() const override { return accounts_.several(); }

  // The sequences of a lane have one tenant, so its share does not change their order.
  QueueKey Key(const Sequence& sequence, int64_t now_us) const override {
    QueueKey key = within_.Key(sequence, now_us);
    if (DividesByTenants()) key.share = accounts_.used_us(sequence.tenant);
    return key;
  }

 private:
  const PriorityPolicy within_;
  const TenantAccounts& accounts_;
};

constexpr int64_t kEarlyAbortMarginUs = 500'000;
constexpr double kNewest = 0.7;  // weight of the last plan in the running means

bool IsHopeless(int64_t wait_us, int64_t slo_us) { return wait_us + kEarlyAbortMarginUs >= slo_us; }

class EarlyAbortPolicy final : public QueuePolicy {
 public:
  explicit EarlyAbortPolicy(int64_t slo_us) : slo_us_(slo_us) {}

  QueueKey Key(const Sequence& sequence, int64_t now_us) const override {
    const Request& request = *sequence.request;
    const bool late = request.arrival_us < SplitUs(now_us);
    const bool newest_first = !late && arrived_ >= admitted_;
    if (newest_first) return {0.0, 0, -request.arrival_us, ~request.id, -sequence.index};
    return {0.0, late ? 1 : 0, request.arrival_us, request.id, sequence.index};
  }

  // On each side of the split, either the oldest or the newest sequence has the smallest key.
  int64_t SplitUs(int64_t now_us) const override {
    return now_us + kEarlyAbortMarginUs - slo_us_ + 1;
  }

  absl::Status MayQueue(int64_t queue_delay_us) const override {
    if (!IsHopeless(queue_delay_us, slo_us_)) return absl::OkStatus();
    return absl::ResourceExhaustedError(
        absl::StrCat("the first token would come in about ", queue_delay_us / 1000,
                     " ms, too late for the ", slo_us_ / 1000, " ms of --early-abort-ms"));
  }

  void OnPlanned(int64_t num_arrived, int64_t num_admitted) override {
    if (num_arrived == 0 && num_admitted == 0) return;
    arrived_ += kNewest * (static_cast<double>(num_arrived) - arrived_);
    admitted_ += kNewest * (static_cast<double>(num_admitted) - admitted_);
  }

 private:
  const int64_t slo_us_;
  double arrived_ = 0.0;
  double admitted_ = 0.0;
};

}  // namespace

std::unique_ptr<QueuePolicy> NewEarlyAbortPolicy(int64_t slo_us) {
  return std::make_unique<EarlyAbortPolicy>(slo_us);
}

std::unique_ptr<QueuePolicy> NewPriorityPolicy(int64_t ageing_us) {
  return std::make_unique<PriorityPolicy>(ageing_us);
}

std::unique_ptr<QueuePolicy> NewFairPolicy(int64_t ageing_us, const TenantAccounts* accounts) {
  return std::make_unique<FairPolicy>(ageing_us, accounts);
}

std::unique_ptr<QueuePolicy> NewQueuePolicy(const SchedulerOptions& options,
                                            const TenantAccounts* accounts) {
  if (options.queue_policy == QueuePolicyKind::kEarlyAbort) {
    return NewEarlyAbortPolicy(options.early_abort_us);
  }
  return NewFairPolicy(options.ageing_us, accounts);
}

}  // namespace tessera
