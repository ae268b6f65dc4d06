// Strict parsing of requests. Protobuf's own parser ignores unknown fields and reports other errors
// only as "failed". A client needs an error that says what to change, so the bytes are first
// checked against the message's descriptor: unknown fields at any depth, wrong wire types, invalid
// UTF-8, unknown enum values, truncation, and element counts that would make a small message large
// in memory. The check allocates no memory in proportion to the input. Any thread.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/call/limits.h"

namespace google::protobuf {
class Descriptor;
class Message;
}  // namespace google::protobuf

namespace tessera {

// The largest number of sub-messages and strings in one request, and the largest number of numbers,
// however the numbers are encoded. A list of kMaxDetokenizeIds ids leaves room for other fields.
inline constexpr int64_t kMaxWireItems = 262'144;
inline constexpr int64_t kMaxWireNumbers = kMaxDetokenizeIds + 65'536;

absl::Status CheckWire(const google::protobuf::Descriptor& descriptor, absl::string_view bytes);

// Runs CheckWire, then parses the bytes into *message.
absl::Status ParseStrict(absl::string_view bytes, google::protobuf::Message* message);

}  // namespace tessera
