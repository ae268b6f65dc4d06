#include "server/call/responder_loop.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/clock.h"
#include "kernels/base/status.h"
#include "scheduler/residency/adapters/adapter_registry.h"
#include "server/call/call_port.h"
#include "server/call/embed_output.h"
#include "server/call/errors.h"
#include "server/call/served_model.h"
#include "server/call/serving.h"
#include "server/call/stream_output.h"
#include "tessera/v1/inference.pb.h"

namespace tessera {
namespace {

class EventSink final : public TokenSink {
 public:
  EventSink(std::shared_ptr<ResponderLoop::Inbox> inbox, uint64_t call, int32_t input)
      : inbox_(std::move(inbox)), call_(call), input_(input) {}

  void Push(TokenEvent event) override {
    inbox_->Send(EventMessage{call_, input_, std::move(event)});
  }

 private:
  const std::shared_ptr<ResponderLoop::Inbox> inbox_;
  const uint64_t call_;
  const int32_t input_;
};

// The last tokens of the prompt, for the detokenizer. 64 tokens are enough for any sequence of
// tokens that together form one code point.
std::vector<TokenId> PromptTail(const std::vector<TokenId>& prompt) {
  constexpr size_t kTailTokens = 64;
  return {prompt.end() - static_cast<ptrdiff_t>(std::min(kTailTokens, prompt.size())),
          prompt.end()};
}

absl::Status CancelledByName() {
  return MakeError(absl::StatusCode::kCancelled, "CANCELLED", "the call was cancelled by its name");
}

absl::Status ClientGone() {
  return MakeError(absl::StatusCode::kCancelled, "CLIENT_GONE",
                   "the client cancelled, its deadline passed, or its connection was lost");
}

// Returns true for methods whose requests go to the engine's queue.
bool Generates(Method method) {
  return method == Method::kGenerate || method == Method::kChat || method == Method::kEmbed;
}

absl::Status ShuttingDown() {
  return WithRetry(MakeError(absl::StatusCode::kUnavailable, "DRAINING",
                             "the server is shutting down; send the request to another one"),
                   1'000'000);
}

}  // namespace

ResponderLoop::ResponderLoop(ServingContext* context, PrepareLanes* lanes)
    : context_(context), lanes_(lanes), inbox_(std::make_shared<Inbox>()) {}

ResponderLoop::~ResponderLoop() = default;

void ResponderLoop::Run() {
  std::vector<ResponderMessage> messages;
  while (inbox_->Drain(&messages, context_->log.WaitUs())) {
    for (ResponderMessage& message : messages) {
      std::visit([this](auto& m) { Handle(std::move(m)); }, message);
    }
    if (context_->log.WaitUs() >= 0) context_->log.LogSummaries(context_->clock->NowUs());
  }
  if (context_->log.WaitUs() >= 0) {
    context_->log.LogSummaries(context_->clock->NowUs(), /*all=*/true);
  }
}

ResponderLoop::Call* ResponderLoop::Find(uint64_t id) {
  const auto it = calls_.find(id);
  return it == calls_.end() ? nullptr : it->second.get();
}

absl::Status ResponderLoop::QueueError(const absl::Status& status) const {
  if (status.code() != absl::StatusCode::kResourceExhausted) return status;
  return WithRetry(MakeError(status.code(), "QUEUE_FULL", status.message()), RetryAfterUs(status));
}

absl::Status ResponderLoop::Admit(Call* call) {
  if (call->port->cancelled()) return ClientGone();
  RETURN_IF_ERROR(call->port->caller().status());
  call->caller = *call->port->caller();
  if (context_->draining.load(std::memory_order_relaxed)) return ShuttingDown();
  if (Generates(call->method)) {
    if (const absl::Status status = context_->generator->MayQueue(); !status.ok()) {
      return QueueError(status);
    }
  }
  call->admitted = context_->live.Admit(context_->max_open_calls);
  if (call->admitted) return absl::OkStatus();
  return WithRetry(
      MakeError(absl::StatusCode::kResourceExhausted, "TOO_MANY_CALLS",
                absl::StrCat("more than ", context_->max_open_calls,
                             " calls are open; try again later, or raise engine.max_queue")),
      context_->generator->QueueDelayUs());
}

void ResponderLoop::Handle(OpenMessage message) {
  std::unique_ptr<Call>& slot = calls_[message.call];
  slot = std::make_unique<Call>();
  Call* call = slot.get();
  call->id = message.call;
  call->method = message.method;
  call->port = message.port;
  call->arrival_us = context_->clock->NowUs();
  if (const absl::Status status = Admit(call); !status.ok()) return Finish(call, status);

  auto bytes = std::make_shared<const std::string>(call->port->TakeRequest());
  call->preparing = true;
  const bool may_render = call->method == Method::kChat || call->method == Method::kTokenize;
  PrepareOptions options;
  options.tenant = call->caller.tenant;
  if (Preparer* lane = lanes_->LaneOf(may_render, bytes->size())) {
    options.render_time = PrepareLanes::QuickTime(bytes->size());
    return PrepareIn(lane, call, std::move(bytes), options);
  }
  Handle(PreparedMessage{call->id,
                         Prepare(call->method, *bytes, call->id, *context_->models,
                                 context_->adapters, &context_->live, options),
                         nullptr});
}

void ResponderLoop::PrepareIn(Preparer* lane, Call* call, std::shared_ptr<const std::string> bytes,
                              const PrepareOptions& options) {
  auto size = static_cast<int64_t>(bytes->size());
  if (lane == lanes_->slow()) size = std::max(size, PrepareLanes::kSlowBytes);
  // The job holds a reference to the loop, because the job may outlive the responder.
  auto job = [self = shared_from_this(), method = call->method, id = call->id,
              bytes = std::move(bytes), options] {
    PreparedCall prepared = Prepare(method, *bytes, id, *self->context_->models,
                                    self->context_->adapters, &self->context_->live, options);
    const bool again = prepared.needs_time;
    self->inbox_->Send(PreparedMessage{id, std::move(prepared), again ? bytes : nullptr});
  };
  call->preparing = true;
  if (const auto ticket = lane->Submit(size, std::move(job))) {
    call->lane = lane;
    call->ticket = *ticket;
    return;
  }
  call->preparing = false;
  Finish(call, WithRetry(MakeError(absl::StatusCode::kResourceExhausted, "TOO_MANY_LARGE_REQUESTS",
                                   "too many large or slow requests are being read; try again "
                                   "later"),
                         1'000'000));
}

void ResponderLoop::Handle(PreparedMessage message) {
  Call* call = Find(message.call);
  if (call == nullptr) return;
  call->preparing = false;
  call->request_id = std::move(message.prepared.request_id);
  if (call->port == nullptr) return Close(call, ClientGone());
  if (call->port->cancelled()) return Finish(call, ClientGone());
  if (message.prepared.needs_time) {
    PrepareOptions options;
    options.request_id = call->request_id;
    options.tenant = call->caller.tenant;
    return PrepareIn(lanes_->slow(), call, std::move(message.bytes), options);
  }
  if (!message.prepared.status.ok()) return Finish(call, message.prepared.status);
  call->model = message.prepared.model;
  if (message.prepared.reply != nullptr) return Reply(call, *message.prepared.reply);
  if (const absl::Status status = Submit(call, std::move(message.prepared)); !status.ok()) {
    return Finish(call, status);
  }
  Pump(call);
}

absl::Status ResponderLoop::Submit(Call* call, PreparedCall prepared) {
  const auto prompt_tokens = static_cast<int64_t>(prepared.requests.front()->prompt.size());
  if (call->method == Method::kEmbed) {
    call->num_sequences = static_cast<int32_t>(prepared.requests.size());
    call->embed = std::make_unique<EmbedOutput>(call->num_sequences);
  } else {
    call->num_sequences = prepared.requests.front()->sampling.n;
    StreamOptions options;
    options.request_id = call->request_id;
    options.model = prepared.model;
    options.n = call->num_sequences;
    options.has_logprobs = prepared.requests.front()->logprobs >= 0;
    options.stops = std::move(prepared.stops);
    options.skip_special_tokens = prepared.skip_special_tokens;
    options.prompt_tail = PromptTail(prepared.requests.front()->prompt);
    call->stream = std::make_unique<StreamOutput>(std::move(options));
  }
  for (size_t i = 0; i < prepared.requests.size(); ++i) {
    std::unique_ptr<Request> request = std::move(prepared.requests[i]);
    const uint64_t id = context_->next_engine_id.fetch_add(1, std::memory_order_relaxed);
    request->id = id;
    request->arrival_us = call->arrival_us;
    if (i == 0 && request->adapter.id != kNoAdapter) {
      call->adapter = context_->adapters->NameOf(request->adapter.id);
    }
    request->sink = std::make_shared<EventSink>(inbox_, call->id, static_cast<int32_t>(i));
    absl::Status status = context_->generator->Submit(std::move(request));
    if (!status.ok()) {
      CancelEngine(*call, CancelReason::kClient);
      return QueueError(status);
    }
    call->engine_ids.push_back(id);
  }
  if (call->stream != nullptr) call->stream->Accept(prompt_tokens);
  return absl::OkStatus();
}

void ResponderLoop::Handle(EventMessage message) {
  Call* call = Find(message.call);
  if (call == nullptr || call->port == nullptr || call->gone) return;
  if (call->embed != nullptr) {
    call->embed->OnEvent(message.input, std::move(message.event));
    if (!call->embed->status().ok()) {
      CancelEngine(*call, CancelReason::kClient);
      return Finish(call, call->embed->status());
    }
    if (call->embed->finished()) Reply(call, call->embed->response());
    return;
  }
  const int32_t index = message.event.index;
  if (call->stream->OnEvent(std::move(message.event))) {
    context_->generator->Cancel(call->engine_ids.front(), index, CancelReason::kStopText);
  }
  Pump(call);
}

void ResponderLoop::Pump(Call* call) {
  if (call->stream == nullptr || call->write_in_flight) return Throttle(call);
  WriteBuffer& buffer = call->stream->buffer();
  if (buffer.empty()) {
    if (call->stream->finished()) Finish(call, absl::OkStatus());
    return;
  }
  call->write_in_flight = true;
  const v1::GenerateResponse message = buffer.Take();
  Throttle(call);
  call->port->StartWrite(message);
}

void ResponderLoop::Throttle(Call* call) {
  if (call->stream == nullptr || call->stream->finished()) return;
  const int64_t bytes = call->stream->buffer().bytes();
  const bool paused = call->paused ? bytes > context_->stream_buffer_bytes / 2
                                   : bytes > context_->stream_buffer_bytes;
  if (paused == call->paused) return;
  call->paused = paused;
  if (paused) context_->stats.streams_paused.Add();
  context_->generator->Throttle(call->engine_ids.front(), paused);
}

void ResponderLoop::Handle(WriteDoneMessage message) {
  Call* call = Find(message.call);
  if (call == nullptr || call->port == nullptr) return;
  call->write_in_flight = false;
  if (call->gone) return Finish(call, ClientGone());
  if (!message.ok) return Handle(GoneMessage{message.call});
  Pump(call);
}

void ResponderLoop::Handle(GoneMessage message) {
  Call* call = Find(message.call);
  if (call == nullptr || call->port == nullptr || call->gone) return;
  call->gone = true;
  CancelEngine(*call, CancelReason::kClient);
  // gRPC accepts the final status only when no write is in flight. A write in flight fails soon,
  // and its WriteDoneMessage finishes the call.
  if (!call->write_in_flight) Finish(call, ClientGone());
}

void ResponderLoop::Handle(CancelMessage message) {
  Call* call = Find(message.call);
  if (call == nullptr || call->port == nullptr || call->gone) return;
  if (call->preparing) return Finish(call, CancelledByName());
  CancelEngine(*call, CancelReason::kClient);
}

void ResponderLoop::Handle(CancelAllMessage) {
  std::vector<Call*> preparing;
  for (const auto& [id, call] : calls_) {
    if (call->port == nullptr || call->gone) continue;
    if (call->preparing) {
      preparing.push_back(call.get());
    } else {
      CancelEngine(*call, CancelReason::kShutdown);
    }
  }
  for (Call* call : preparing) Finish(call, ShuttingDown());
}

void ResponderLoop::CancelEngine(const Call& call, CancelReason reason) {
  for (const uint64_t id : call.engine_ids) context_->generator->Cancel(id, -1, reason);
}

void ResponderLoop::Finish(Call* call, const absl::Status& status) {
  CallPort* port = std::exchange(call->port, nullptr);
  // Made before Close, which frees the call and with it the status of an Embed.
  const absl::Status answer = ForClient(status);
  if (call->preparing && call->lane->Cancel(call->ticket)) call->preparing = false;
  if (!call->preparing) Close(call, status);
  port->Finish(answer);
}

void ResponderLoop::Reply(Call* call, const google::protobuf::Message& message) {
  CallPort* port = std::exchange(call->port, nullptr);
  // The request id is freed before the client can see the answer. Close comes last, because it
  // deletes the call and an Embed's `message` belongs to the call.
  FreeName(*call);
  port->Reply(message);
  Close(call, absl::OkStatus());
}

void ResponderLoop::FreeName(const Call& call) {
  if (call.request_id.empty()) return;
  context_->live.Unregister(call.caller.tenant, call.request_id, call.id);
}

void ResponderLoop::LogEnd(const Call& call, const absl::Status& status) {
  const int64_t now_us = context_->clock->NowUs();
  CallFacts facts;
  facts.method = call.method;
  facts.request_id = call.request_id;
  facts.tenant = call.caller.tenant;
  facts.client_id = call.caller.client_id;
  if (call.model != nullptr) facts.model = call.model->name;
  facts.adapter = call.adapter;
  if (call.stream != nullptr) facts.totals = call.stream->totals();
  if (call.embed != nullptr) facts.totals = call.embed->totals();
  // A request that the queue has refused has no sequences.
  if (!call.engine_ids.empty()) facts.num_sequences = call.num_sequences;
  facts.total_us = now_us - call.arrival_us;
  context_->log.Ended(facts, status, now_us);
}

void ResponderLoop::Close(Call* call, const absl::Status& status) {
  const auto method = static_cast<size_t>(call->method);
  context_->stats.calls[method][static_cast<size_t>(status.code())].Add();
  if (call->admitted) context_->live.Leave();
  LogEnd(*call, status);
  FreeName(*call);
  calls_.erase(call->id);
}

}  // namespace tessera
