#include "server/call/errors.h"

#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>

#include <algorithm>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

constexpr char kErrorInfo[] = "type.googleapis.com/google.rpc.ErrorInfo";
constexpr char kRetryInfo[] = "type.googleapis.com/google.rpc.RetryInfo";
constexpr char kBadRequest[] = "type.googleapis.com/google.rpc.BadRequest";
// gRPC sends the message and the details as headers, and clients limit the size of headers (8 KiB
// by default).
constexpr size_t kMaxMessageBytes = 1500;
// The shortest delay in RetryInfo. A client that retries at once would be refused again.
constexpr int64_t kMinRetryUs = 100'000;

std::string ErrorInfoBytes(absl::string_view reason) {
  google::rpc::ErrorInfo info;
  info.set_reason(std::string(reason));
  info.set_domain("tessera");
  return info.SerializeAsString();
}

}  // namespace

std::string CutText(absl::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) return std::string(text);
  size_t end = max_bytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return absl::StrCat(text.substr(0, end), "...");
}

std::string BoundedMessage(absl::string_view message) { return CutText(message, kMaxMessageBytes); }

absl::Status MakeError(absl::StatusCode code, absl::string_view reason, absl::string_view message) {
  absl::Status status(code, BoundedMessage(message));
  status.SetPayload(kErrorInfo, absl::Cord(ErrorInfoBytes(reason)));
  return status;
}

absl::Status FieldError(absl::string_view field, absl::string_view message) {
  absl::Status status = MakeError(absl::StatusCode::kInvalidArgument, "INVALID_FIELD",
                                  absl::StrCat(field, " ", message));
  google::rpc::BadRequest bad;
  google::rpc::BadRequest::FieldViolation* violation = bad.add_field_violations();
  violation->set_field(std::string(field));
  violation->set_description(BoundedMessage(message));
  status.SetPayload(kBadRequest, absl::Cord(bad.SerializeAsString()));
  return status;
}

std::string ErrorReason(const absl::Status& status) {
  google::rpc::ErrorInfo info;
  const auto payload = status.GetPayload(kErrorInfo);
  if (payload.has_value() && info.ParseFromString(std::string(*payload))) return info.reason();
  return absl::StatusCodeToString(status.code());
}

std::string WithoutFolders(absl::string_view text) {
  constexpr absl::string_view kBefore = " \"(=[,";
  constexpr absl::string_view kAfter = " \"'()[],;";
  std::string out;
  while (!text.empty()) {
    const bool may_begin = out.empty() || kBefore.find(out.back()) != absl::string_view::npos;
    if (text[0] != '/' || !may_begin) {
      out.push_back(text[0]);
      text.remove_prefix(1);
      continue;
    }
    const absl::string_view path = text.substr(0, text.find_first_of(kAfter));
    const size_t last = path.find_last_not_of("/:");  // of the last component
    const size_t slash = last == absl::string_view::npos ? 0 : path.rfind('/', last) + 1;
    absl::StrAppend(&out, path.substr(slash));
    text.remove_prefix(path.size());
  }
  return out;
}

absl::Status ForClient(const absl::Status& status) {
  if (status.ok()) return status;
  std::string message = WithoutFolders(status.message());
  if (message == status.message()) return status;
  absl::Status result(status.code(), message);
  status.ForEachPayload(
      [&result](absl::string_view url, const absl::Cord& value) { result.SetPayload(url, value); });
  return result;
}

absl::Status WithRetry(absl::Status status, int64_t delay_us) {
  delay_us = std::max(delay_us, kMinRetryUs);
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(delay_us / 1'000'000);
  retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(delay_us % 1'000'000) * 1000);
  status.SetPayload(kRetryInfo, absl::Cord(retry.SerializeAsString()));
  return status;
}

std::string ErrorDetails(const absl::Status& status) {
  google::rpc::Status details;
  details.set_code(static_cast<int32_t>(status.code()));
  details.set_message(BoundedMessage(status.message()));
  const auto add = [&details](absl::string_view url, std::string value) {
    google::protobuf::Any* any = details.add_details();
    any->set_type_url(std::string(url));
    any->set_value(std::move(value));
  };
  if (const auto info = status.GetPayload(kErrorInfo)) {
    add(kErrorInfo, std::string(*info));
  } else {
    add(kErrorInfo, ErrorInfoBytes(absl::StatusCodeToString(status.code())));
  }
  status.ForEachPayload([&add](absl::string_view url, const absl::Cord& value) {
    if (url != kErrorInfo) add(url, std::string(value));
  });
  return details.SerializeAsString();
}

}  // namespace tessera
