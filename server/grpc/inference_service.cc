#include "server/grpc/inference_service.h"

#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include "kernels/base/log.h"
#include "server/call/call_port.h"
#include "server/call/responder_pool.h"
#include "server/call/serving.h"
#include "server/call/unread_replies.h"
#include "server/door/peer.h"
#include "server/grpc/authenticator.h"
#include "server/grpc/byte_buffers.h"
#include "server/grpc/status.h"
#include "tessera/v1/inference.grpc.pb.h"

namespace tessera {
namespace {

using google::protobuf::Message;
using grpc::ByteBuffer;
using grpc::CallbackServerContext;

// The common part of streaming and unary calls. The reactor deletes itself in OnDone, when gRPC has
// finished the call.
class CallBase : public CallPort {
 public:
  CallBase(ServingContext* context, ResponderPool* pool, absl::StatusOr<Caller> caller,
           const ByteBuffer* request)
      : context_(context),
        caller_(std::move(caller)),
        id_(context->next_call.fetch_add(1, std::memory_order_relaxed)),
        responder_(&pool->Of(id_)),
        request_(request) {
    context_->live.Opened();
  }
  ~CallBase() override { Leave(); }

  bool cancelled() const override { return cancelled_.load(std::memory_order_relaxed); }
  const absl::StatusOr<Caller>& caller() const override { return caller_; }
  std::string TakeRequest() override { return TakeBytes(request_); }

 protected:
  // Ends the count of this call among the open calls. gRPC may end the call much later, when the
  // client has read the answer.
  void Leave() {
    if (!left_.exchange(true, std::memory_order_relaxed)) context_->live.Closed();
  }
  void NoteCancelled() {
    cancelled_.store(true, std::memory_order_relaxed);
    Leave();
    responder_->Gone(id_);
  }

  ServingContext* const context_;
  const absl::StatusOr<Caller> caller_;
  const uint64_t id_;
  Responder* const responder_;
  const ByteBuffer* const request_;

 private:
  std::atomic<bool> left_{false};
  std::atomic<bool> cancelled_{false};
};

class StreamReactor final : public grpc::ServerWriteReactor<ByteBuffer>, public CallBase {
 public:
  using CallBase::CallBase;
  void Start(Method method) { responder_->Open(id_, method, this); }

  void StartWrite(const Message& message) override {
    if (absl::Status status = Serialize(message, &in_flight_); !status.ok()) {
      failure_ = std::move(status);
      return responder_->WriteDone(id_, false);  // the responder then finishes the call
    }
    grpc::ServerWriteReactor<ByteBuffer>::StartWrite(&in_flight_);
  }
  void Finish(const absl::Status& status) override {
    Leave();
    grpc::ServerWriteReactor<ByteBuffer>::Finish(ToGrpcStatus(failure_.ok() ? status : failure_));
  }
  void Reply(const Message&) override { CHECK(false) << "a stream has no single reply"; }

  void OnWriteDone(bool ok) override {
    in_flight_.Clear();
    responder_->WriteDone(id_, ok);
  }
  void OnCancel() override { NoteCancelled(); }
  void OnDone() override { delete this; }

 private:
  ByteBuffer in_flight_;
  absl::Status failure_;  // why a message could not be encoded
};

// The address of a client without the port, as "ipv4:1.2.3.4".
std::string HostOf(const CallbackServerContext& call) {
  const std::string client = ClientOf(call.peer());
  return client.substr(0, client.rfind(':'));
}

class UnaryReactor final : public grpc::ServerUnaryReactor, public CallBase {
 public:
  UnaryReactor(ServingContext* context, ResponderPool* pool, absl::StatusOr<Caller> caller,
               const ByteBuffer* request, UnreadReplies* unread, CallbackServerContext* call,
               ByteBuffer* response)
      : CallBase(context, pool, std::move(caller), request),
        unread_(unread),
        call_(call),
        response_(response) {}
  void Start(Method method) { responder_->Open(id_, method, this); }

  void StartWrite(const Message&) override { CHECK(false) << "a unary call has no stream"; }
  void Finish(const absl::Status& status) override {
    Leave();
    grpc::ServerUnaryReactor::Finish(ToGrpcStatus(status));
  }
  // The call stays open until the client has read the answer, so that a drain waits for it.
  void Reply(const Message& message) override {
    const grpc::Status status = ToGrpcStatus(Serialize(message, response_));
    if (status.ok()) {
      reply_ = unread_->Add(HostOf(*call_), static_cast<int64_t>(response_->Length()),
                            [call = call_] { call->TryCancel(); });
    }
    grpc::ServerUnaryReactor::Finish(status);
  }

  void OnCancel() override { NoteCancelled(); }
  void OnDone() override {
    if (reply_ != nullptr) unread_->Remove(reply_);
    delete this;
  }

 private:
  UnreadReplies* const unread_;
  CallbackServerContext* const call_;
  ByteBuffer* const response_;
  std::shared_ptr<UnreadReplies::Reply> reply_;  // null: nothing has been sent
};

using RawBase =
    v1::Inference::WithRawCallbackMethod_Generate<v1::Inference::WithRawCallbackMethod_Chat<
        v1::Inference::WithRawCallbackMethod_Embed<v1::Inference::WithRawCallbackMethod_Tokenize<
            v1::Inference::WithRawCallbackMethod_Detokenize<v1::Inference::Service>>>>>;

class InferenceService final : public RawBase {
 public:
  InferenceService(ServingContext* context, ResponderPool* pool,
                   const UnreadReplies::Limits& unread, const Authenticator* authenticator)
      : context_(context),
        pool_(pool),
        authenticator_(authenticator),
        unread_(unread, context->clock, [context](const UnreadReplies::Drop& drop) {
          context->stats.replies_dropped.Add();
          context->log.ReplyDropped(drop, context->clock->NowUs());
        }) {}

  grpc::ServerWriteReactor<ByteBuffer>* Generate(CallbackServerContext* call,
                                                 const ByteBuffer* request) override {
    return Stream(Method::kGenerate, *call, request);
  }
  grpc::ServerWriteReactor<ByteBuffer>* Chat(CallbackServerContext* call,
                                             const ByteBuffer* request) override {
    return Stream(Method::kChat, *call, request);
  }
  grpc::ServerUnaryReactor* Embed(CallbackServerContext* call, const ByteBuffer* request,
                                  ByteBuffer* response) override {
    return Unary(Method::kEmbed, call, request, response);
  }
  grpc::ServerUnaryReactor* Tokenize(CallbackServerContext* call, const ByteBuffer* request,
                                     ByteBuffer* response) override {
    return Unary(Method::kTokenize, call, request, response);
  }
  grpc::ServerUnaryReactor* Detokenize(CallbackServerContext* call, const ByteBuffer* request,
                                       ByteBuffer* response) override {
    return Unary(Method::kDetokenize, call, request, response);
  }

 private:
  grpc::ServerWriteReactor<ByteBuffer>* Stream(Method method, const CallbackServerContext& call,
                                               const ByteBuffer* request) {
    auto* reactor = new StreamReactor(context_, pool_, authenticator_->Identify(call), request);
    reactor->Start(method);
    return reactor;
  }
  grpc::ServerUnaryReactor* Unary(Method method, CallbackServerContext* call,
                                  const ByteBuffer* request, ByteBuffer* response) {
    auto* reactor = new UnaryReactor(context_, pool_, authenticator_->Identify(*call), request,
                                     &unread_, call, response);
    reactor->Start(method);
    return reactor;
  }

  ServingContext* const context_;
  ResponderPool* const pool_;
  const Authenticator* const authenticator_;
  UnreadReplies unread_;
};

}  // namespace

std::unique_ptr<grpc::Service> NewInferenceService(ServingContext* context, ResponderPool* pool,
                                                   const UnreadReplies::Limits& unread,
                                                   const Authenticator* authenticator) {
  return std::make_unique<InferenceService>(context, pool, unread, authenticator);
}

}  // namespace tessera
