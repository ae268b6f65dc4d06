#include "server/grpc/audit_log.h"

#include "absl/strings/str_cat.h"
#include "kernels/base/clock.h"
#include "kernels/base/log.h"
#include "server/call/errors.h"

namespace tessera {
namespace {

constexpr size_t kMaxObjectBytes = 600;
constexpr size_t kMaxMessageBytes = 600;

}  // namespace

AuditLog::~AuditLog() { LogSummaries(/*all=*/true); }

void AuditLog::Record(absl::string_view method, absl::string_view peer, absl::string_view object,
                      const absl::Status& status) {
  LogSummaries(/*all=*/false);
  const std::string reason = status.ok() ? "" : ErrorReason(status);
  if (!status.ok() && !failures_.Admit(absl::StrCat(method, " ", reason), clock_->NowUs())) return;
  std::string line = absl::StrCat("control ", method, " peer=", peer);
  if (!object.empty()) absl::StrAppend(&line, " object=", LogQuoted(object, kMaxObjectBytes));
  absl::StrAppend(&line, " code=", absl::StatusCodeToString(status.code()));
  if (!status.ok()) {
    absl::StrAppend(&line, " reason=", reason,
                    " message=", LogQuoted(status.message(), kMaxMessageBytes));
  }
  TLOG_INFO("{}", line);
}

void AuditLog::LogSummaries(bool all) {
  if (!failures_.has_summaries()) return;
  for (const LogLimiter::Summary& summary : failures_.TakeSummaries(clock_->NowUs(), all)) {
    TLOG_INFO("control: {} more calls failed with {} in the last {:.1f} s", summary.count,
              summary.kind, static_cast<double>(summary.span_us) * 1e-6);
  }
}

}  // namespace tessera
