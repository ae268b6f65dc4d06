// A responder: one thread that owns the state of the calls pinned to it. The responder parses and
// tokenises a request (or leaves this to a lane, see prepare_lanes.h), submits it to the engine,
// detokenises its output and writes the messages. gRPC's threads and the engine only send messages
// to the responder's inbox. A call ends when all its indices are finished and written, by an error
// before acceptance, or when its client disconnects or cancels.
#pragma once

#include <cstdint>
#include <memory>
#include <thread>

#include "server/call/prepare.h"

namespace tessera {

class CallPort;
class PrepareLanes;
class ResponderLoop;
struct ServingContext;

class Responder final {
 public:
  // `context` and `lanes` outlive the responder.
  Responder(ServingContext* context, PrepareLanes* lanes);
  // Joins the thread. REQUIRES: no call is open.
  ~Responder();
  Responder(const Responder&) = delete;
  Responder& operator=(const Responder&) = delete;

  // The methods below are thread-safe and only send a message to the responder's thread. `port`
  // lives until the responder calls its Finish or Reply.
  void Open(uint64_t call, Method method, CallPort* port);
  void WriteDone(uint64_t call, bool ok);
  // Reports that the client cancelled, its deadline passed, or its connection was lost.
  void Gone(uint64_t call);
  // Cancels the call for Control.Cancel.
  void CancelCall(uint64_t call);
  // Ends every call at shutdown: calls in preparation at once, other calls through the engine.
  void CancelAll();

 private:
  std::shared_ptr<ResponderLoop> loop_;
  std::thread thread_;
};

}  // namespace tessera
