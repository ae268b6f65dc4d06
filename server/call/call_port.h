// The gRPC side of one call, as its responder sees it: request bytes in, messages out, one final
// status. This interface keeps gRPC's types inside server/grpc and lets tests drive a responder
// without sockets.
//
// The gRPC service owns the port. A responder uses a port from its own thread only and drops its
// pointer after Finish or Reply. A call counts as open (live_calls.h) until its responder calls
// Finish or Reply, or its client cancels: the port counts it.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/door/caller.h"

namespace google::protobuf {
class Message;
}

namespace tessera {

class CallPort {
 public:
  virtual ~CallPort() = default;

  // Returns true once the client has cancelled, its deadline has passed, or its connection is lost.
  // Responder::Gone reports the same, but after the messages that the responder has not handled
  // yet.
  virtual bool cancelled() const = 0;

  // Who calls. An error ends the call.
  virtual const absl::StatusOr<Caller>& caller() const = 0;

  // Returns the request's bytes. REQUIRES: called at most once.
  virtual std::string TakeRequest() = 0;

  // Streaming calls: sends a message; Responder::WriteDone reports the end of the write.
  // REQUIRES: no write is in flight.
  virtual void StartWrite(const google::protobuf::Message& message) = 0;

  // Ends the call. The port may already be deleted when Finish returns.
  virtual void Finish(const absl::Status& status) = 0;

  // Unary calls: sends the answer and ends the call. The port may already be deleted when Reply
  // returns.
  virtual void Reply(const google::protobuf::Message& message) = 0;
};

}  // namespace tessera
