// Errors as clients see them. An absl::Status carries google.rpc details as payloads from where it
// arises to where it becomes a status of the wire; the messages say what to change. Any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace tessera {

// The text, or its beginning and "..." when it has more bytes; cut at a code point, so that it
// stays valid UTF-8.
std::string CutText(absl::string_view text, size_t max_bytes);

// The message cut to what clients take as a header.
std::string BoundedMessage(absl::string_view message);

// `reason` is google.rpc.ErrorInfo's: UPPER_SNAKE_CASE, stable, for programs.
absl::Status MakeError(absl::StatusCode code, absl::string_view reason, absl::string_view message);

// INVALID_ARGUMENT with the field to blame, e.g. "sampling.top_p" (google.rpc.BadRequest). The
// message begins with the field.
absl::Status FieldError(absl::string_view field, absl::string_view message);

// Adds google.rpc.RetryInfo, never less than 100 ms.
absl::Status WithRetry(absl::Status status, int64_t delay_us);

// The serialised google.rpc.Status: code, message, the payloads as details. Errors that were made
// elsewhere get an ErrorInfo whose reason is the code's name.
std::string ErrorDetails(const absl::Status& status);

}  // namespace tessera
