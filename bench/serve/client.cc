#include "bench/serve/client.h"

#include <grpcpp/client_context.h>
#include <grpcpp/support/async_stream.h>

#include <chrono>
#include <utility>

namespace tessera::bench {

// The state machine of a call: Start, then Read until the stream ends, then Finish. One operation
// is in progress at a time.
class LoadClient::Call final {
 public:
  Call(v1::Inference::Stub* stub, const v1::GenerateRequest& request, int64_t prompt_tokens,
       int64_t intended_us, int64_t deadline_us, grpc::CompletionQueue* queue) {
    // gRPC's deadlines are times of the system clock.
    context_.set_deadline(std::chrono::system_clock::now() +
                          std::chrono::microseconds(deadline_us));
    record_.intended_us = intended_us;
    record_.prompt_tokens = prompt_tokens;
    record_.token_us.reserve(static_cast<size_t>(request.stopping().max_tokens()));
    reader_ = stub->PrepareAsyncGenerate(&context_, request, queue);
  }

  void Start(int64_t now_us) {
    record_.sent_us = now_us;
    reader_->StartCall(this);
  }
  void Cancel() { context_.TryCancel(); }

  // Handles the result of the last operation and starts the next one. Returns false after Finish.
  // Sets *num_tokens to the number of tokens that the operation brought.
  bool Advance(bool ok, int64_t now_us, int64_t* num_tokens) {
    if (step_ == Step::kFinish) return false;
    if (step_ == Step::kRead && ok) *num_tokens = Take(now_us);
    if (ok) {
      step_ = Step::kRead;
      reader_->Read(&message_, this);
    } else {
      step_ = Step::kFinish;
      reader_->Finish(&status_, this);
    }
    return true;
  }

  RequestRecord TakeRecord(int64_t now_us, bool abandoned) {
    if (!finished_) {
      record_.end_us = now_us;
      SetError(status_.ok() ? static_cast<int>(absl::StatusCode::kDataLoss) : status_.error_code(),
               status_.ok() ? "the stream ended without `finished`" : status_.error_message());
    }
    record_.abandoned = abandoned && !record_.ok();
    return std::move(record_);
  }

 private:
  enum class Step : int { kStart, kRead, kFinish };

  void SetError(int code, const std::string& message) {
    record_.code = static_cast<absl::StatusCode>(code);
    record_.message = message;
  }

  int64_t Take(int64_t now_us) {
    if (message_.has_output()) {
      const auto count = static_cast<size_t>(message_.output().token_ids_size());
      record_.token_us.insert(record_.token_us.end(), count, now_us);
      return static_cast<int64_t>(count);
    }
    if (!message_.has_finished()) return 0;
    finished_ = true;
    record_.end_us = now_us;
    record_.cached_prompt_tokens = message_.usage().cached_prompt_tokens();
    const v1::Finished& finished = message_.finished();
    if (finished.reason() == v1::FINISH_REASON_ERROR) {
      SetError(finished.status().code(), finished.status().message());
    } else if (finished.reason() == v1::FINISH_REASON_CANCELLED) {
      SetError(static_cast<int>(absl::StatusCode::kCancelled), "the server cancelled it");
    } else if (finished.reason() == v1::FINISH_REASON_QUOTA) {
      SetError(static_cast<int>(absl::StatusCode::kResourceExhausted), "the quota ran out");
    }
    return 0;
  }

  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientAsyncReader<v1::GenerateResponse>> reader_;
  v1::GenerateResponse message_;
  grpc::Status status_;
  RequestRecord record_;
  Step step_ = Step::kStart;
  bool finished_ = false;
};

void LoadClient::CallDeleter::operator()(Call* call) const { delete call; }

LoadClient::LoadClient(const std::shared_ptr<grpc::Channel>& channel, ClientOptions options,
                       OnDone on_done)
    : options_(std::move(options)),
      on_done_(std::move(on_done)),
      stub_(v1::Inference::NewStub(channel)),
      thread_([this] { Receive(); }) {}

LoadClient::~LoadClient() {
  Abandon();
  {
    std::unique_lock<std::mutex> lock(mutex_);
    idle_.wait(lock, [this] { return started_.empty(); });
  }
  queue_.Shutdown();
  thread_.join();
}

LoadClient::CallPtr LoadClient::Prepare(const Prompt& prompt, int64_t intended_us) {
  v1::GenerateRequest request = options_.base;
  request.mutable_token_ids()->mutable_ids()->Assign(prompt.token_ids.begin(),
                                                     prompt.token_ids.end());
  request.mutable_stopping()->set_max_tokens(prompt.output_tokens);
  const auto patience_us = static_cast<int64_t>(options_.deadline_seconds * 1e6);
  return CallPtr(new Call(stub_.get(), request, static_cast<int64_t>(prompt.token_ids.size()),
                          intended_us, intended_us - clock_.NowUs() + patience_us, &queue_));
}

void LoadClient::Start(CallPtr call) {
  Call* const started = call.release();  // owned by its tag in the completion queue
  num_in_flight_.fetch_add(1, std::memory_order_relaxed);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    started_.insert(started);
    if (abandoned_) started->Cancel();
  }
  started->Start(clock_.NowUs());
}

void LoadClient::Abandon() {
  std::lock_guard<std::mutex> lock(mutex_);
  abandoned_ = true;
  for (Call* call : started_) call->Cancel();
}

void LoadClient::Receive() {
  void* tag = nullptr;
  bool ok = false;
  while (queue_.Next(&tag, &ok)) {
    const int64_t now_us = clock_.NowUs();
    auto* call = static_cast<Call*>(tag);
    int64_t num_tokens = 0;
    const bool goes_on = call->Advance(ok, now_us, &num_tokens);
    if (num_tokens > 0) num_tokens_.fetch_add(num_tokens, std::memory_order_relaxed);
    if (!goes_on) End(CallPtr(call));
  }
}

void LoadClient::End(CallPtr call) {
  bool abandoned = false;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    abandoned = abandoned_;
  }
  num_in_flight_.fetch_sub(1, std::memory_order_relaxed);
  // on_done_ may start the next call. The ended call stays in started_ until then, so that the
  // client does not look idle in between.
  on_done_(call->TakeRecord(clock_.NowUs(), abandoned));
  std::lock_guard<std::mutex> lock(mutex_);
  started_.erase(call.get());
  if (started_.empty()) idle_.notify_all();
}

}  // namespace tessera::bench
