#include "server/control_service.h"

#include <grpcpp/alarm.h>

#include <algorithm>
#include <chrono>
#include <mutex>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "kernels/base/status.h"
#include "server/byte_buffers.h"
#include "server/control_answers.h"
#include "server/errors.h"
#include "server/limits.h"
#include "server/responder_pool.h"
#include "server/serving.h"
#include "server/wire_check.h"
#include "tessera/v1/control.grpc.pb.h"

namespace tessera {
namespace {

using grpc::ByteBuffer;
using grpc::CallbackServerContext;

constexpr int64_t kDefaultIntervalMs = 1000;
constexpr int64_t kMinIntervalMs = 100;
constexpr int64_t kMaxIntervalMs = 3'600'000;

absl::Status CheckPeer(const CallbackServerContext& context) {
  if (IsLoopbackPeer(context.peer())) return absl::OkStatus();
  return MakeError(absl::StatusCode::kPermissionDenied, "CONTROL_IS_LOCAL",
                   "Control answers on loopback only; call it on the server's machine");
}

absl::Status NoAdapters() {
  return MakeError(absl::StatusCode::kUnimplemented, "NO_ADAPTERS",
                   "adapters come in a later release; this server serves base models only");
}

// Checks the peer and reads the request.
absl::Status Read(const CallbackServerContext& context, const ByteBuffer* request,
                  google::protobuf::Message* message) {
  RETURN_IF_ERROR(CheckPeer(context));
  if (request->Length() > static_cast<size_t>(kMaxControlBytes)) {
    return MakeError(absl::StatusCode::kInvalidArgument, "TOO_LARGE",
                     absl::StrCat("the message has ", request->Length(), " bytes; send at most ",
                                  kMaxControlBytes));
  }
  return ParseStrict(TakeBytes(request), message);
}

// Sends the load at every interval until the client is gone. One operation (write or alarm) is
// pending at any time; whoever completes it looks whether the call is over.
class LoadWatcher final : public grpc::ServerWriteReactor<ByteBuffer> {
 public:
  LoadWatcher(const ServingContext* context, int64_t interval_ms)
      : context_(context), interval_ms_(interval_ms) {
    Send();
  }

  void OnWriteDone(bool ok) override {
    std::unique_lock<std::mutex> lock(mutex_);
    if (!ok || cancelled_) {
      lock.unlock();
      return Finish(grpc::Status::CANCELLED);
    }
    alarm_.Set(std::chrono::system_clock::now() + std::chrono::milliseconds(interval_ms_),
               [this](bool) { OnAlarm(); });
  }
  void OnCancel() override {
    std::lock_guard<std::mutex> lock(mutex_);
    cancelled_ = true;
    alarm_.Cancel();
  }
  void OnDone() override { delete this; }

 private:
  void OnAlarm() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!cancelled_) return Send();
    }
    Finish(grpc::Status::CANCELLED);
  }
  void Send() {
    v1::GetLoadResponse response;
    FillLoad(*context_, &response);
    const absl::Status status = Serialize(response, &in_flight_);
    if (!status.ok()) return Finish(ToGrpcStatus(status));
    StartWrite(&in_flight_);
  }

  const ServingContext* const context_;
  const int64_t interval_ms_;
  ByteBuffer in_flight_;
  std::mutex mutex_;
  bool cancelled_ = false;
  grpc::Alarm alarm_;
};

// A stream that ends at once.
class RefusedStream final : public grpc::ServerWriteReactor<ByteBuffer> {
 public:
  explicit RefusedStream(const absl::Status& status) { Finish(ToGrpcStatus(status)); }
  void OnDone() override { delete this; }
};

using v1::Control;
using RawBase = Control::WithRawCallbackMethod_GetCapabilities<
    Control::WithRawCallbackMethod_ListModels<Control::WithRawCallbackMethod_GetLoad<
        Control::WithRawCallbackMethod_WatchLoad<Control::WithRawCallbackMethod_Cancel<
            Control::WithRawCallbackMethod_Drain<Control::WithRawCallbackMethod_RegisterAdapters<
                Control::WithRawCallbackMethod_LoadAdapter<
                    Control::WithRawCallbackMethod_UnloadAdapter<
                        Control::WithRawCallbackMethod_PinAdapter<
                            Control::WithRawCallbackMethod_ListAdapters<
                                Control::WithRawCallbackMethod_WatchAdapters<
                                    Control::Service>>>>>>>>>>>>;

class ControlService final : public RawBase {
 public:
  ControlService(ServingContext* context, ResponderPool* pool, std::function<void()> begin_drain)
      : context_(context), pool_(pool), begin_drain_(std::move(begin_drain)) {}

  grpc::ServerUnaryReactor* GetCapabilities(CallbackServerContext* call, const ByteBuffer* request,
                                            ByteBuffer* response) override {
    v1::GetCapabilitiesRequest in;
    v1::GetCapabilitiesResponse out;
    const absl::Status status = Read(*call, request, &in);
    if (status.ok()) FillCapabilities(*context_, &out);
    return Answer(call, status, out, response);
  }

  grpc::ServerUnaryReactor* ListModels(CallbackServerContext* call, const ByteBuffer* request,
                                       ByteBuffer* response) override {
    v1::ListModelsRequest in;
    v1::ListModelsResponse out;
    const absl::Status status = Read(*call, request, &in);
    if (status.ok()) FillModels(*context_, &out);
    return Answer(call, status, out, response);
  }

  grpc::ServerUnaryReactor* GetLoad(CallbackServerContext* call, const ByteBuffer* request,
                                    ByteBuffer* response) override {
    v1::GetLoadRequest in;
    v1::GetLoadResponse out;
    const absl::Status status = Read(*call, request, &in);
    if (status.ok()) FillLoad(*context_, &out);
    return Answer(call, status, out, response);
  }

  grpc::ServerWriteReactor<ByteBuffer>* WatchLoad(CallbackServerContext* call,
                                                  const ByteBuffer* request) override {
    v1::WatchLoadRequest in;
    absl::Status status = Read(*call, request, &in);
    const int64_t interval = in.has_interval_ms() ? in.interval_ms() : kDefaultIntervalMs;
    if (status.ok() && (interval < kMinIntervalMs || interval > kMaxIntervalMs)) {
      status =
          FieldError("interval_ms", absl::StrCat("is ", interval, "; give a whole number from ",
                                                 kMinIntervalMs, " to ", kMaxIntervalMs));
    }
    if (!status.ok()) return new RefusedStream(status);
    return new LoadWatcher(context_, interval);
  }

  grpc::ServerUnaryReactor* Cancel(CallbackServerContext* call, const ByteBuffer* request,
                                   ByteBuffer* response) override {
    v1::CancelRequest in;
    v1::CancelResponse out;
    absl::Status status = Read(*call, request, &in);
    if (status.ok() && in.request_id().empty()) {
      status = FieldError("request_id", "is empty; name the call to cancel");
    }
    if (status.ok()) {
      const std::optional<uint64_t> found = context_->live.Find(in.request_id());
      if (found) pool_->Of(*found).CancelCall(*found);
      out.set_found(found.has_value());
    }
    return Answer(call, status, out, response);
  }

  grpc::ServerUnaryReactor* Drain(CallbackServerContext* call, const ByteBuffer* request,
                                  ByteBuffer* response) override {
    v1::DrainRequest in;
    v1::DrainResponse out;
    const absl::Status status = Read(*call, request, &in);
    if (status.ok()) {
      begin_drain_();
      if (in.exit()) context_->exit_requested.store(true);
      out.set_calls(context_->live.num_open());
    }
    return Answer(call, status, out, response);
  }

  grpc::ServerUnaryReactor* RegisterAdapters(CallbackServerContext* call, const ByteBuffer*,
                                             ByteBuffer*) override {
    return Refuse(call);
  }
  grpc::ServerUnaryReactor* LoadAdapter(CallbackServerContext* call, const ByteBuffer*,
                                        ByteBuffer*) override {
    return Refuse(call);
  }
  grpc::ServerUnaryReactor* UnloadAdapter(CallbackServerContext* call, const ByteBuffer*,
                                          ByteBuffer*) override {
    return Refuse(call);
  }
  grpc::ServerUnaryReactor* PinAdapter(CallbackServerContext* call, const ByteBuffer*,
                                       ByteBuffer*) override {
    return Refuse(call);
  }
  grpc::ServerUnaryReactor* ListAdapters(CallbackServerContext* call, const ByteBuffer*,
                                         ByteBuffer*) override {
    return Refuse(call);
  }
  grpc::ServerWriteReactor<ByteBuffer>* WatchAdapters(CallbackServerContext* call,
                                                      const ByteBuffer*) override {
    const absl::Status status = CheckPeer(*call);
    return new RefusedStream(status.ok() ? NoAdapters() : status);
  }

 private:
  static grpc::ServerUnaryReactor* Answer(CallbackServerContext* call, const absl::Status& status,
                                          const google::protobuf::Message& message,
                                          ByteBuffer* response) {
    grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
    reactor->Finish(ToGrpcStatus(status.ok() ? Serialize(message, response) : status));
    return reactor;
  }
  static grpc::ServerUnaryReactor* Refuse(CallbackServerContext* call) {
    const absl::Status status = CheckPeer(*call);
    grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
    reactor->Finish(ToGrpcStatus(status.ok() ? NoAdapters() : status));
    return reactor;
  }

  ServingContext* const context_;
  ResponderPool* const pool_;
  const std::function<void()> begin_drain_;
};

}  // namespace

bool IsLoopbackPeer(absl::string_view peer) {
  if (absl::StartsWith(peer, "unix:") || absl::StartsWith(peer, "ipv4:127.")) return true;
  const std::string plain = absl::StrReplaceAll(peer, {{"%5B", "["}, {"%5D", "]"}});
  return absl::StartsWith(plain, "ipv6:[::1]:") || absl::StartsWith(plain, "ipv6:[::ffff:127.");
}

std::unique_ptr<grpc::Service> NewControlService(ServingContext* context, ResponderPool* pool,
                                                 std::function<void()> begin_drain) {
  return std::make_unique<ControlService>(context, pool, std::move(begin_drain));
}

}  // namespace tessera
