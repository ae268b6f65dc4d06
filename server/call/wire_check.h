// Strict reading of requests. Protobuf's own parser ignores fields it does not know and says only
// "failed" of the rest; a request must instead be refused with words. So the bytes are first walked
// along the message's descriptor: unknown fields at any depth, wrong wire types, invalid UTF-8,
// unknown enum values, truncation, and counts that would make a small message a large one in
// memory. No allocation in proportion to the input. Any thread.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/call/limits.h"

namespace google::protobuf {
class Descriptor;
class Message;
}  // namespace google::protobuf

namespace tessera {

// Of one request in all, however they are encoded: sub-messages and strings, and numbers. A list of
// kMaxDetokenizeIds ids leaves room for what stands beside it.
inline constexpr int64_t kMaxWireItems = 262'144;
inline constexpr int64_t kMaxWireNumbers = kMaxDetokenizeIds + 65'536;

absl::Status CheckWire(const google::protobuf::Descriptor& descriptor, absl::string_view bytes);

// CheckWire, then parses into *message.
absl::Status ParseStrict(absl::string_view bytes, google::protobuf::Message* message);

}  // namespace tessera
