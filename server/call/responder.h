// A responder: one thread that owns the state of the calls pinned to it, from the request's bytes
// to the last message. gRPC's threads and the engine only send it messages; it parses, tokenises,
// submits, detokenises and writes. Calls end in one of three ways: all indices finished and
// written, an error before acceptance, or the client is gone.
#pragma once

#include <cstdint>
#include <memory>
#include <thread>

#include "server/call/prepare.h"

namespace tessera {

class CallPort;
class Preparer;
class ResponderLoop;
struct ServingContext;

class Responder final {
 public:
  // Both outlive the responder.
  Responder(ServingContext* context, Preparer* preparer);
  // Joins the thread. REQUIRES: no call is open.
  ~Responder();
  Responder(const Responder&) = delete;
  Responder& operator=(const Responder&) = delete;

  // All thread-safe; they only send a message. `port` lives until it is finished.
  void Open(uint64_t call, Method method, CallPort* port);
  void WriteDone(uint64_t call, bool ok);
  // The client has cancelled, its deadline has passed, or its connection is lost.
  void Gone(uint64_t call);
  // Control.Cancel.
  void CancelCall(uint64_t call);
  // Shutdown: every call ends as soon as it can.
  void CancelAll();

 private:
  std::shared_ptr<ResponderLoop> loop_;
  std::thread thread_;
};

}  // namespace tessera
