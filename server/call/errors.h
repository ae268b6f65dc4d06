// Errors as clients see them. An absl::Status carries google.rpc details as payloads from the place
// of the error to the place that sends the status. Each message says what to change. Any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace tessera {

// Returns the text whole if it has at most `max_bytes` bytes, else its first bytes and "...". The
// cut is at the start of a code point, so that the result is valid UTF-8.
std::string CutText(absl::string_view text, size_t max_bytes);

// Cuts the message to a size that clients accept in a header.
std::string BoundedMessage(absl::string_view message);

// `reason` is the reason of google.rpc.ErrorInfo: a stable UPPER_SNAKE_CASE word for programs.
absl::Status MakeError(absl::StatusCode code, absl::string_view reason, absl::string_view message);

// INVALID_ARGUMENT that names the wrong field, e.g. "sampling.top_p", in google.rpc.BadRequest and
// at the start of the message.
absl::Status FieldError(absl::string_view field, absl::string_view message);

// The reason of the status's ErrorInfo; if it has none, the name of its code, such as "INTERNAL".
std::string ErrorReason(const absl::Status& status);

// Returns the text with each absolute path reduced to its last component: "/srv/m/a.json: bad"
// becomes "a.json: bad". Clients need the names of files, and folders would tell them about the
// server. Text right after a single quote stays, because messages quote the client's own words so.
std::string WithoutFolders(absl::string_view text);
// The status as clients may see it: its message is WithoutFolders.
absl::Status ForClient(const absl::Status& status);

// Adds google.rpc.RetryInfo with a delay of at least 100 ms.
absl::Status WithRetry(absl::Status status, int64_t delay_us);

// The serialised google.rpc.Status: the code, the message, and the payloads as details. An error
// that has no ErrorInfo gets one whose reason is the name of the status code.
std::string ErrorDetails(const absl::Status& status);

}  // namespace tessera
