// GatePolicy is the priority policy, plus a set of tenants whose sequences may not enter, and a
// count of the computed keys. The scheduler owns the policy; a test opens and closes tenants on the
// engine's thread.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <utility>

#include "scheduler/plan/queue_policy.h"

namespace tessera::testing {

class GatePolicy final : public QueuePolicy {
 public:
  explicit GatePolicy(int64_t ageing_us = 0) : priority_(NewPriorityPolicy(ageing_us)) {}

  QueueKey Key(const Sequence& sequence, int64_t now_us) const override {
    ++num_keys_;
    return priority_->Key(sequence, now_us);
  }
  int32_t Lane(const Sequence& sequence) const override { return priority_->Lane(sequence); }
  bool MayEnter(const Sequence& sequence) const override {
    return closed_.count(sequence.request->tenant) == 0;
  }

  void Close(const std::string& tenant) { closed_.insert(tenant); }
  void Open(const std::string& tenant) { closed_.erase(tenant); }
  // Returns the number of keys computed since the last call.
  int64_t TakeNumKeys() { return std::exchange(num_keys_, 0); }

 private:
  const std::unique_ptr<QueuePolicy> priority_;
  std::set<std::string> closed_;
  mutable int64_t num_keys_ = 0;
};

}  // namespace tessera::testing
