#include "server/call/responder.h"

#include <utility>

#include "kernels/base/mailbox.h"
#include "server/call/call_port.h"
#include "server/call/responder_loop.h"
#include "server/call/serving.h"

namespace tessera {

Responder::Responder(ServingContext* context, PrepareLanes* lanes)
    : loop_(std::make_shared<ResponderLoop>(context, lanes)),
      thread_([loop = loop_] { loop->Run(); }) {}

Responder::~Responder() {
  loop_->inbox().Close();
  thread_.join();
}

void Responder::Open(uint64_t call, Method method, CallPort* port) {
  loop_->inbox().Send(OpenMessage{call, method, port});
}

void Responder::WriteDone(uint64_t call, bool ok) {
  loop_->inbox().Send(WriteDoneMessage{call, ok});
}

void Responder::Gone(uint64_t call) { loop_->inbox().Send(GoneMessage{call}); }

void Responder::CancelCall(uint64_t call) { loop_->inbox().Send(CancelMessage{call}); }

void Responder::CancelAll() { loop_->inbox().Send(CancelAllMessage{}); }

}  // namespace tessera
