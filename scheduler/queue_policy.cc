#include "scheduler/queue_policy.h"

#include <algorithm>

namespace tessera {
namespace {

class PriorityPolicy final : public QueuePolicy {
 public:
  explicit PriorityPolicy(int64_t ageing_us) : ageing_us_(ageing_us) {}

  QueueKey Key(const Sequence& sequence, int64_t now_us) const override {
    const Request& request = *sequence.request;
    const int64_t waited_us = std::max<int64_t>(0, now_us - request.arrival_us);
    const int64_t gained = ageing_us_ > 0 ? waited_us / ageing_us_ : 0;
    const int64_t priority =
        std::min<int64_t>(kNumPriorities - 1, static_cast<int64_t>(request.priority) + gained);
    return {static_cast<int32_t>(kNumPriorities - 1 - priority), request.arrival_us, request.id,
            sequence.index};
  }

 private:
  const int64_t ageing_us_;
};

}  // namespace

std::unique_ptr<QueuePolicy> NewPriorityPolicy(int64_t ageing_us) {
  return std::make_unique<PriorityPolicy>(ageing_us);
}

}  // namespace tessera
