#include "server/call/call_log.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/log.h"
#include "server/call/errors.h"

namespace tessera {
namespace {

// Request ids have at most 128 bytes and error messages at most 1,500. Escapes make them longer.
constexpr size_t kMaxIdBytes = 160;
constexpr size_t kMaxNameBytes = 160;
constexpr size_t kMaxMessageBytes = 600;

const char* MethodName(Method method) {
  switch (method) {
    case Method::kGenerate:
      return "Generate";
    case Method::kChat:
      return "Chat";
    case Method::kEmbed:
      return "Embed";
    case Method::kTokenize:
      return "Tokenize";
    case Method::kDetokenize:
      return "Detokenize";
  }
  return "";
}

// Returns true for errors that no client causes.
bool IsServerFault(const absl::Status& status) {
  return status.code() == absl::StatusCode::kInternal ||
         status.code() == absl::StatusCode::kUnknown ||
         status.code() == absl::StatusCode::kDataLoss;
}

spdlog::level::level_enum LevelOf(const absl::Status& status) {
  return IsServerFault(status) ? spdlog::level::warn : spdlog::level::info;
}

// The engine's work bounds the rate of calls that have generated tokens or embeddings, so each of
// them gets its line. All other calls can come at any rate.
bool IsRateBounded(const CallFacts& call) {
  return call.totals.usage.completion_tokens > 0 ||
         (call.method == Method::kEmbed && call.totals.usage.prompt_tokens > 0);
}

void AppendField(absl::string_view name, absl::string_view text, size_t max_bytes,
                 std::string* line) {
  if (!text.empty()) absl::StrAppend(line, " ", name, "=", LogQuoted(text, max_bytes));
}

void AppendMs(absl::string_view name, int64_t us, std::string* line) {
  absl::StrAppendFormat(line, " %s_ms=%.1f", name, static_cast<double>(us) * 1e-3);
}

// The finish reasons, as "stop" or "stop:3,length:1".
std::string Reasons(const CallTotals& totals) {
  std::string counted;
  std::string alone;
  int num_reasons = 0;
  for (int i = 0; i < kNumFinishReasons; ++i) {
    const int32_t count = totals.finished[static_cast<size_t>(i)];
    if (count == 0) continue;
    alone = FinishReasonName(static_cast<FinishReason>(i));
    absl::StrAppend(&counted, counted.empty() ? "" : ",", alone, ":", count);
    ++num_reasons;
  }
  return num_reasons == 1 ? alone : counted;
}

std::string LineOf(const CallFacts& call, const absl::Status& status, const absl::Status& error) {
  std::string line = absl::StrCat("call ", MethodName(call.method));
  AppendField("request_id", call.request_id, kMaxIdBytes, &line);
  AppendField("tenant", call.tenant, kMaxNameBytes, &line);
  AppendField("client", call.client_id, kMaxIdBytes, &line);
  AppendField("model", call.model, kMaxNameBytes, &line);
  AppendField("adapter", call.adapter, kMaxNameBytes, &line);
  if (call.num_sequences > 0) {
    const SequenceUsage& usage = call.totals.usage;
    absl::StrAppend(&line, " n=", call.num_sequences, " prompt_tokens=", usage.prompt_tokens,
                    " cached_tokens=", usage.cached_prompt_tokens,
                    " completion_tokens=", usage.completion_tokens);
  }
  const std::string reasons = Reasons(call.totals);
  if (!reasons.empty()) {
    const SequenceTiming& timing = call.totals.timing;
    AppendMs("queue", timing.queue_us, &line);
    AppendMs("prefill", timing.prefill_us, &line);
    AppendMs("decode", timing.decode_us, &line);
    AppendMs("ttft", timing.ttft_us, &line);
  }
  AppendMs("total", call.total_us, &line);
  absl::StrAppend(&line, " code=", absl::StatusCodeToString(status.code()));
  if (!reasons.empty()) absl::StrAppend(&line, " finish=", reasons);
  if (!error.ok()) {
    absl::StrAppend(&line, " reason=", ErrorReason(error));
    AppendField("message", error.message(), kMaxMessageBytes, &line);
  }
  return line;
}

// The error of a call that ended with `status` and whose sequences did `totals`.
const absl::Status& ErrorOf(const CallTotals& totals, const absl::Status& status) {
  return status.ok() ? totals.error : status;
}

}  // namespace

void CallTotals::AddFinished(const TokenEvent& event, FinishReason reason) {
  ++finished[static_cast<size_t>(reason)];
  timing = event.timing;
  if (reason == FinishReason::kError) error = event.status;
}

void CallLog::Ended(const CallFacts& call, const absl::Status& status, int64_t now_us) {
  const absl::Status& error = ErrorOf(call.totals, status);
  const spdlog::level::level_enum level = LevelOf(error);
  if (!spdlog::should_log(level)) return;
  if (!IsRateBounded(call) && !limiter_.Admit(ErrorReason(error), now_us)) return;
  spdlog::log(level, "{}", LineOf(call, status, error));
}

void CallLog::ReplyDropped(const UnreadReplies::Drop& drop, int64_t now_us) {
  if (!limiter_.Admit("an unread reply", now_us)) return;
  TLOG_WARN("a reply of {} bytes was dropped: {} has not read it, and too many replies are unread",
            drop.bytes, drop.client);
}

void CallLog::LogSummaries(int64_t now_us, bool all) {
  for (const LogLimiter::Summary& summary : limiter_.TakeSummaries(now_us, all)) {
    TLOG_INFO("{} more calls ended with {} in the last {:.1f} s", summary.count, summary.kind,
              static_cast<double>(summary.span_us) * 1e-6);
  }
}

}  // namespace tessera
