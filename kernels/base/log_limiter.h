// Bounds the log lines of events that strangers can cause at any rate. The first events of a kind
// get a line each; the others are counted, and a summary tells their number. Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace tessera {

class LogLimiter final {
 public:
  struct Options {
    // Events of one kind that get a line of their own in each period. More lines tell more and cost
    // more; twenty show what happens.
    int64_t burst = 20;
    int64_t period_us = 10'000'000;  // the summary comes this long after the first counted event
  };
  struct Summary {
    std::string kind;
    int64_t count = 0;    // events without a line
    int64_t span_us = 0;  // time since the first of them
  };

  LogLimiter() : LogLimiter(Options{}) {}
  explicit LogLimiter(Options options) : options_(options) {}

  // Returns true if an event of this kind gets a line; counts the event otherwise. REQUIRES: the
  // kinds are words of the program, because each kind takes memory for ever.
  bool Admit(absl::string_view kind, int64_t now_us);

  // Removes and returns the summaries that are due, or all of them if `all`. Costs one atomic load
  // while none is due.
  std::vector<Summary> TakeSummaries(int64_t now_us, bool all = false);

  // Returns true while an event is counted that no summary has told.
  bool has_summaries() const { return next_us_.load(std::memory_order_relaxed) != kNever; }
  int64_t period_us() const { return options_.period_us; }

 private:
  struct Kind {
    int64_t period_begin_us = 0;
    int64_t num_admitted = 0;  // in the period
    int64_t num_counted = 0;   // since the last summary
    int64_t first_counted_us = 0;
  };
  static constexpr int64_t kNever = INT64_MAX;

  const Options options_;
  std::mutex mutex_;
  std::map<std::string, Kind> kinds_;
  std::atomic<int64_t> next_us_{kNever};  // when the next summary is due
};

}  // namespace tessera
