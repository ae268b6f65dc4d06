// The log of calls: one line for each call when it ends, with its model, tokens, times and result.
// Lines that strangers can cause at any rate are limited by their reason (LogLimiter). Text of a
// client is quoted, escaped and cut. Thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "kernels/base/log_limiter.h"
#include "scheduler/request.h"
#include "server/call/prepare.h"
#include "server/call/unread_replies.h"

namespace tessera {

// What the sequences of a call have done.
struct CallTotals {
  SequenceUsage usage;    // completion tokens of all sequences; the prompts are counted once
  SequenceTiming timing;  // of the sequence that finished last
  std::array<int32_t, kNumFinishReasons> finished{};  // number of finished sequences by reason
  absl::Status error;                                 // of a sequence that finished with kError

  // Adds the end of a sequence with `reason`, except its tokens.
  void AddFinished(const TokenEvent& event, FinishReason reason);
};

struct CallFacts {
  Method method = Method::kGenerate;
  absl::string_view request_id;  // empty: the call ended before its request id was read
  absl::string_view tenant;      // empty: the tenant ""
  absl::string_view client_id;   // what the client calls itself; empty: nothing
  absl::string_view model;       // empty: the call ended before its model was known
  absl::string_view adapter;     // empty: the base model
  int32_t num_sequences = 0;
  CallTotals totals;
  int64_t total_us = 0;  // time from the arrival to the end
};

class CallLog final {
 public:
  // Logs the end of a call at level WARN if the server is to blame, else at level INFO. `status` is
  // the status that ended the call, as an operator may read it.
  void Ended(const CallFacts& call, const absl::Status& status, int64_t now_us);

  // Logs that the bound of unread replies has dropped one.
  void ReplyDropped(const UnreadReplies::Drop& drop, int64_t now_us);

  // Logs the summaries that are due, or all of them at the end of the process.
  void LogSummaries(int64_t now_us, bool all = false);
  // The longest time until the next call of LogSummaries is due; -1: no summary waits.
  int64_t WaitUs() const { return limiter_.has_summaries() ? limiter_.period_us() : -1; }

 private:
  LogLimiter limiter_;
};

}  // namespace tessera
