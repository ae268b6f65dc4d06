#include "kernels/base/log_limiter.h"

#include <algorithm>
#include <utility>

namespace tessera {

bool LogLimiter::Admit(absl::string_view kind, int64_t now_us) {
  std::lock_guard<std::mutex> lock(mutex_);
  auto it = kinds_.find(std::string(kind));
  if (it == kinds_.end()) it = kinds_.emplace(std::string(kind), Kind{now_us}).first;
  Kind& state = it->second;
  if (now_us - state.period_begin_us >= options_.period_us) {
    state.period_begin_us = now_us;
    state.num_admitted = 0;
  }
  if (state.num_admitted < options_.burst) {
    ++state.num_admitted;
    return true;
  }
  if (state.num_counted++ == 0) {
    state.first_counted_us = now_us;
    next_us_ = std::min(next_us_.load(), now_us + options_.period_us);
  }
  return false;
}

std::vector<LogLimiter::Summary> LogLimiter::TakeSummaries(int64_t now_us, bool all) {
  std::vector<Summary> due;
  const int64_t next_us = next_us_.load(std::memory_order_relaxed);
  if (next_us == kNever || (!all && now_us < next_us)) return due;
  std::lock_guard<std::mutex> lock(mutex_);
  int64_t later_us = kNever;
  for (auto& [kind, state] : kinds_) {
    if (state.num_counted == 0) continue;
    const int64_t due_us = state.first_counted_us + options_.period_us;
    if (!all && now_us < due_us) {
      later_us = std::min(later_us, due_us);
      continue;
    }
    due.push_back({kind, std::exchange(state.num_counted, 0), now_us - state.first_counted_us});
  }
  next_us_ = later_us;
  return due;
}

}  // namespace tessera
