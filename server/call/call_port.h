// A call's end towards gRPC, as a responder sees it: bytes in, messages out, one status. The one
// interface of the server's own, with two reasons: gRPC's types stay in service.cc, and the
// responder's protocol is tested without sockets.
//
// Owned by gRPC's side. A responder uses a port from its own thread only and forgets it after
// Finish or Reply.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace google::protobuf {
class Message;
}

namespace tessera {

class CallPort {
 public:
  virtual ~CallPort() = default;

  // The request's bytes, once.
  virtual std::string TakeRequest() = 0;

  // Streams: sends a message; a WriteDone follows. REQUIRES: none is in flight.
  virtual void StartWrite(const google::protobuf::Message& message) = 0;

  // Ends the call. The port may be gone when it returns.
  virtual void Finish(const absl::Status& status) = 0;

  // Unary calls: answers and ends the call. The port may be gone when it returns.
  virtual void Reply(const google::protobuf::Message& message) = 0;
};

}  // namespace tessera
