#include "server/grpc/control_service.h"

#include <grpcpp/alarm.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "scheduler/residency/adapters/adapter_registry.h"
#include "server/call/errors.h"
#include "server/call/limits.h"
#include "server/call/preparer.h"
#include "server/call/responder_pool.h"
#include "server/call/serving.h"
#include "server/call/wire_check.h"
#include "server/door/identities.h"
#include "server/door/peer.h"
#include "server/grpc/adapter_control.h"
#include "server/grpc/audit_log.h"
#include "server/grpc/authenticator.h"
#include "server/grpc/byte_buffers.h"
#include "server/grpc/control_answers.h"
#include "server/grpc/status.h"
#include "tessera/v1/control.grpc.pb.h"

namespace tessera {
namespace {

using grpc::ByteBuffer;
using grpc::CallbackServerContext;

constexpr int64_t kDefaultIntervalMs = 1000;
constexpr int64_t kMinIntervalMs = 100;
constexpr int64_t kMaxIntervalMs = 3'600'000;
// The largest total size of the registration requests that wait or run.
constexpr int64_t kMaxRegistrationBytes = 16 * kMaxControlBytes;
constexpr size_t kMaxDescriptionBytes = 1000;

absl::Status ReadMessage(const ByteBuffer* request, google::protobuf::Message* message) {
  if (request->Length() > static_cast<size_t>(kMaxControlBytes)) {
    return MakeError(absl::StatusCode::kInvalidArgument, "TOO_LARGE",
                     absl::StrCat("the message has ", request->Length(), " bytes; send at most ",
                                  kMaxControlBytes));
  }
  return ParseStrict(TakeBytes(request), message);
}

// A stream that asks `Fill` for a message at every interval and sends it if there is one, until the
// client disconnects. Exactly one operation (a write or an alarm) is pending at any time, and its
// completion checks whether the call was cancelled.
class Watcher final : public grpc::ServerWriteReactor<ByteBuffer> {
 public:
  // Fills the next message. Returns false when there is nothing to send in this interval.
  using Fill = std::function<absl::StatusOr<bool>(ByteBuffer*)>;

  Watcher(int64_t interval_ms, Fill fill) : interval_ms_(interval_ms), fill_(std::move(fill)) {
    Send();
  }

  void OnWriteDone(bool ok) override {
    std::unique_lock<std::mutex> lock(mutex_);
    if (!ok || cancelled_) {
      lock.unlock();
      return Finish(grpc::Status::CANCELLED);
    }
    SetAlarm();
  }
  void OnCancel() override {
    std::lock_guard<std::mutex> lock(mutex_);
    cancelled_ = true;
    for (grpc::Alarm& alarm : alarms_) alarm.Cancel();
  }
  void OnDone() override { delete this; }

 private:
  // Waits one interval. The two alarms alternate, because an alarm must not be set again inside its
  // own callback. REQUIRES: no operation is pending; mutex_ is held, except in the constructor.
  void SetAlarm() {
    next_alarm_ = 1 - next_alarm_;
    alarms_[next_alarm_].Set(
        std::chrono::system_clock::now() + std::chrono::milliseconds(interval_ms_),
        [this](bool) { OnAlarm(); });
  }
  void OnAlarm() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!cancelled_) return Send();
    }
    Finish(grpc::Status::CANCELLED);
  }
  // Sends the next message, or waits one interval if there is none. REQUIRES: no operation is
  // pending; mutex_ is held, except in the constructor.
  void Send() {
    in_flight_.Clear();
    const absl::StatusOr<bool> filled = fill_(&in_flight_);
    if (!filled.ok()) return Finish(ToGrpcStatus(filled.status()));
    *filled ? StartWrite(&in_flight_) : SetAlarm();
  }

  const int64_t interval_ms_;
  const Fill fill_;
  ByteBuffer in_flight_;
  std::mutex mutex_;
  bool cancelled_ = false;
  grpc::Alarm alarms_[2];
  int next_alarm_ = 0;
};

// A unary call that is answered when its adapter is loaded or when its client disconnects,
// whichever is first. The engine may report the load long after the call has ended, so the engine's
// callback and gRPC share the ownership.
class LoadedAnswer final : public grpc::ServerUnaryReactor {
 public:
  // `record` is called once, before the answer is sent.
  using Record = std::function<void(const absl::Status&)>;
  static std::shared_ptr<LoadedAnswer> New(Record record) {
    auto answer = std::make_shared<LoadedAnswer>();
    answer->until_done_ = answer;
    answer->record_ = std::move(record);
    return answer;
  }

  void Answer(const absl::Status& status) {
    if (answered_.exchange(true)) return;
    record_(status);
    Finish(ToGrpcStatus(status));
  }
  bool answered() const { return answered_.load(); }
  void OnCancel() override {
    Answer(absl::CancelledError("the client is gone; the adapter may still be loaded"));
  }
  void OnDone() override { until_done_.reset(); }

 private:
  Record record_;
  std::atomic<bool> answered_{false};
  std::shared_ptr<LoadedAnswer> until_done_;
};

// The folders and names of a registration, for the audit log.
std::string DescribeSources(const v1::RegisterAdaptersRequest& request) {
  std::string text;
  for (const v1::AdapterSource& source : request.adapters()) {
    if (text.size() > kMaxDescriptionBytes) break;  // the log line is cut anyway
    absl::StrAppend(&text, text.empty() ? "" : ", ", source.path());
    if (!source.name().empty()) absl::StrAppend(&text, " as ", source.name());
  }
  return text;
}

// A stream that ends at once with an error.
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
                Control::WithRawCallbackMethod_UnregisterAdapter<
                    Control::WithRawCallbackMethod_LoadAdapter<
                        Control::WithRawCallbackMethod_UnloadAdapter<
                            Control::WithRawCallbackMethod_PinAdapter<
                                Control::WithRawCallbackMethod_ListAdapters<
                                    Control::WithRawCallbackMethod_WatchAdapters<
                                        Control::Service>>>>>>>>>>>>>;

class ControlService final : public RawBase {
 public:
  ControlService(ServingContext* context, ResponderPool* pool, std::function<void()> begin_drain,
                 const Authenticator* authenticator)
      : context_(context),
        pool_(pool),
        begin_drain_(std::move(begin_drain)),
        authenticator_(authenticator),
        audit_(context->clock),
        registrations_(kMaxRegistrationBytes, context->clock) {}

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
    return new Watcher(interval, [context = context_](ByteBuffer* out) -> absl::StatusOr<bool> {
      v1::GetLoadResponse response;
      FillLoad(*context, &response);
      RETURN_IF_ERROR(Serialize(response, out));
      return true;
    });
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
      const std::vector<uint64_t> found = context_->live.Find(in.request_id());
      for (const uint64_t number : found) pool_->Of(number).CancelCall(number);
      out.set_found(!found.empty());
    }
    if (!status.ok() || out.found()) audit_.Record("Cancel", WhoOf(*call), in.request_id(), status);
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
    audit_.Record("Drain", WhoOf(*call), in.exit() ? "exit" : "", status);
    return Answer(call, status, out, response);
  }

  grpc::ServerUnaryReactor* RegisterAdapters(CallbackServerContext* call, const ByteBuffer* request,
                                             ByteBuffer* response) override {
    const auto bytes = static_cast<int64_t>(request->Length());
    v1::RegisterAdaptersRequest in;
    const absl::Status read = Read(*call, request, &in);
    const std::string object = DescribeSources(in);
    if (!read.ok()) {
      audit_.Record("RegisterAdapters", WhoOf(*call), object, read);
      return Answer(call, read, v1::RegisterAdaptersResponse(), response);
    }
    grpc::ServerUnaryReactor* const reactor = call->DefaultReactor();
    const auto finish = [this, reactor, object, peer = WhoOf(*call)](const absl::Status& status) {
      audit_.Record("RegisterAdapters", peer, object, status);
      reactor->Finish(ToGrpcStatus(status));
    };
    // Without roots, only the users of this machine may name any folder.
    if (context_->adapter_roots.empty() && !IsLoopbackPeer(ClientOf(call->peer()))) {
      finish(MakeError(absl::StatusCode::kPermissionDenied, "NO_ADAPTER_ROOTS",
                       "this server names no folders from which clients may register adapters; set "
                       "adapters.roots, or call from the server's machine"));
      return reactor;
    }
    const auto answer = [this, finish, in = std::move(in), response] {
      v1::RegisterAdaptersResponse out;
      const absl::Status status =
          tessera::RegisterAdapters(*context_, context_->adapter_roots, in, &out);
      finish(status.ok() ? Serialize(out, response) : status);
    };
    if (!registrations_.Submit(bytes, answer).has_value()) {
      finish(MakeError(absl::StatusCode::kResourceExhausted, "TOO_MANY_REGISTRATIONS",
                       "other registrations wait for the disk; send this one again later"));
    }
    return reactor;
  }

  grpc::ServerUnaryReactor* LoadAdapter(CallbackServerContext* call, const ByteBuffer* request,
                                        ByteBuffer* response) override {
    v1::LoadAdapterRequest in;
    absl::Status status = Read(*call, request, &in);
    if (status.ok()) {
      const absl::StatusOr<ResolvedAdapter> adapter = FindAdapter(*context_, in.name());
      if (adapter.ok()) return AnswerWhenLoaded(call, in.name(), *adapter, /*pin=*/false, response);
      status = adapter.status();
    }
    audit_.Record("LoadAdapter", WhoOf(*call), in.name(), status);
    return Answer(call, status, v1::LoadAdapterResponse(), response);
  }

  grpc::ServerUnaryReactor* UnregisterAdapter(CallbackServerContext* call,
                                              const ByteBuffer* request,
                                              ByteBuffer* response) override {
    v1::UnregisterAdapterRequest in;
    absl::Status status = Read(*call, request, &in);
    if (status.ok()) status = tessera::UnregisterAdapter(*context_, in.name());
    audit_.Record("UnregisterAdapter", WhoOf(*call), in.name(), status);
    return Answer(call, status, v1::UnregisterAdapterResponse(), response);
  }

  grpc::ServerUnaryReactor* UnloadAdapter(CallbackServerContext* call, const ByteBuffer* request,
                                          ByteBuffer* response) override {
    v1::UnloadAdapterRequest in;
    absl::Status status = Read(*call, request, &in);
    if (status.ok()) status = tessera::UnloadAdapter(*context_, in.name(), in.unpin());
    audit_.Record("UnloadAdapter", WhoOf(*call), in.name(), status);
    return Answer(call, status, v1::UnloadAdapterResponse(), response);
  }

  grpc::ServerUnaryReactor* PinAdapter(CallbackServerContext* call, const ByteBuffer* request,
                                       ByteBuffer* response) override {
    v1::PinAdapterRequest in;
    absl::Status status = Read(*call, request, &in);
    const bool pin = !in.has_pinned() || in.pinned();
    if (status.ok() && pin) {
      const absl::StatusOr<ResolvedAdapter> adapter = FindAdapter(*context_, in.name());
      if (adapter.ok()) return AnswerWhenLoaded(call, in.name(), *adapter, pin, response);
      status = adapter.status();
    } else if (status.ok()) {
      status = UnpinAdapter(*context_, in.name());
    }
    audit_.Record(pin ? "PinAdapter" : "UnpinAdapter", WhoOf(*call), in.name(), status);
    return Answer(call, status, v1::PinAdapterResponse(), response);
  }

  grpc::ServerUnaryReactor* ListAdapters(CallbackServerContext* call, const ByteBuffer* request,
                                         ByteBuffer* response) override {
    v1::ListAdaptersRequest in;
    v1::ListAdaptersResponse out;
    const absl::Status status = Read(*call, request, &in);
    if (status.ok()) FillAdapters(*context_, &out);
    return Answer(call, status, out, response);
  }

  grpc::ServerWriteReactor<ByteBuffer>* WatchAdapters(CallbackServerContext* call,
                                                      const ByteBuffer* request) override {
    v1::WatchAdaptersRequest in;
    const absl::Status status = Read(*call, request, &in);
    if (!status.ok()) return new RefusedStream(status);
    int64_t sent = -1;  // the registry's revision in the last message
    return new Watcher(kMinIntervalMs,
                       [context = context_, sent](ByteBuffer* out) mutable -> absl::StatusOr<bool> {
                         const int64_t revision = context->adapters->revision();
                         if (revision == std::exchange(sent, revision)) return false;
                         v1::ListAdaptersResponse response;
                         FillAdapters(*context, &response);
                         RETURN_IF_ERROR(Serialize(response, out));
                         return true;
                       });
  }

 private:
  absl::Status Read(const CallbackServerContext& call, const ByteBuffer* request,
                    google::protobuf::Message* message) const {
    if (context_->control == ControlAccess::kOff) {
      return MakeError(absl::StatusCode::kPermissionDenied, "CONTROL_IS_OFF",
                       "Control is off; set server.control to loopback and restart the server");
    }
    const bool loopback_only = context_->control == ControlAccess::kLoopback;
    RETURN_IF_ERROR(authenticator_->IdentifyAdmin(call, loopback_only).status());
    return ReadMessage(request, message);
  }
  // How the audit log names the caller.
  std::string WhoOf(const CallbackServerContext& call) const {
    const absl::StatusOr<Caller> caller = authenticator_->Identify(call);
    std::string who = ClientOf(call.peer());
    if (!caller.ok()) return who;
    if (!caller->tenant.empty()) {
      absl::StrAppend(&who, " tenant=", LogQuoted(caller->tenant, kMaxTenantBytes));
    }
    if (!caller->client_id.empty()) {
      absl::StrAppend(&who, " client=", LogQuoted(caller->client_id, kMaxNameBytes));
    }
    return who;
  }
  static grpc::ServerUnaryReactor* Answer(CallbackServerContext* call, const absl::Status& status,
                                          const google::protobuf::Message& message,
                                          ByteBuffer* response) {
    grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
    reactor->Finish(ToGrpcStatus(status.ok() ? Serialize(message, response) : status));
    return reactor;
  }
  // Answers LoadAdapter or PinAdapter when the adapter is in the pool. The response of either
  // method is an empty message, so LoadAdapterResponse serves both.
  grpc::ServerUnaryReactor* AnswerWhenLoaded(CallbackServerContext* call, const std::string& name,
                                             const ResolvedAdapter& adapter, bool pin,
                                             ByteBuffer* response) {
    const std::shared_ptr<LoadedAnswer> answer =
        LoadedAnswer::New([this, pin, name, peer = WhoOf(*call)](const absl::Status& status) {
          audit_.Record(pin ? "PinAdapter" : "LoadAdapter", peer, name, status);
        });
    // Taken now: `answer` may already be moved from or finished after the call of `load`.
    grpc::ServerUnaryReactor* const reactor = answer.get();
    const absl::Status serialized = Serialize(v1::LoadAdapterResponse(), response);
    AdapterWait wait;
    wait.done = [answer, serialized](const absl::Status& status) {
      answer->Answer(status.ok() ? serialized : status);
    };
    wait.gone = [answer] { return answer->answered(); };
    wait.hold = adapter.hold;
    context_->adapter_verbs.load(adapter.id, pin, std::move(wait));
    return reactor;
  }

  ServingContext* const context_;
  ResponderPool* const pool_;
  const std::function<void()> begin_drain_;
  const Authenticator* const authenticator_;
  AuditLog audit_;
  // Runs registrations on a thread of its own, because they read the disk. The gRPC server shuts
  // down only after all its calls are answered, so the destructor drops no registration.
  Preparer registrations_;
};

}  // namespace

std::unique_ptr<grpc::Service> NewControlService(ServingContext* context, ResponderPool* pool,
                                                 std::function<void()> begin_drain,
                                                 const Authenticator* authenticator) {
  return std::make_unique<ControlService>(context, pool, std::move(begin_drain), authenticator);
}

}  // namespace tessera
