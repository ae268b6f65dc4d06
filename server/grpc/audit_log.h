// The audit log of the Control service: one line for each call that changes the server, with who
// called, on what, and the result. Failed calls change nothing and can come at any rate, so their
// lines are limited (LogLimiter). No gRPC types. Thread-safe.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "kernels/base/log_limiter.h"

namespace tessera {

class Clock;

class AuditLog final {
 public:
  // `clock` outlives the log.
  explicit AuditLog(const Clock* clock) : clock_(clock) {}
  ~AuditLog();
  AuditLog(const AuditLog&) = delete;
  AuditLog& operator=(const AuditLog&) = delete;

  // `method` is the name of a Control method and `peer` the address of the caller. `object` says
  // what the call is about in the words of the caller; they are quoted and cut.
  void Record(absl::string_view method, absl::string_view peer, absl::string_view object,
              const absl::Status& status);

 private:
  void LogSummaries(bool all);

  const Clock* const clock_;
  LogLimiter failures_;
};

}  // namespace tessera
