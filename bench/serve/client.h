// The client sends any number of streaming Generate calls over one connection. One thread serves
// the completion queue and takes the time of every message when the message arrives. A call reuses
// its memory for all its messages, and the thread does nothing but record messages, so that the
// client needs only a small share of a core.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/completion_queue.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_set>

#include "bench/serve/record.h"
#include "bench/serve/workload.h"
#include "kernels/base/clock.h"
#include "tessera/v1/inference.grpc.pb.h"

namespace tessera::bench {

struct ClientOptions {
  v1::GenerateRequest base;  // the fields of all requests, without the prompt and max_tokens
  // Deadline of a call, counted from its intended time, so that the run ends if the server hangs.
  double deadline_seconds = 600;
};

class LoadClient final {
 public:
  // A call that is ready to be sent. The server does not see the call before Start.
  class Call;
  struct CallDeleter {
    void operator()(Call* call) const;
  };
  using CallPtr = std::unique_ptr<Call, CallDeleter>;
  // Called on the client's thread when a call has ended. It may start further calls.
  using OnDone = std::function<void(RequestRecord)>;

  LoadClient(const std::shared_ptr<grpc::Channel>& channel, ClientOptions options, OnDone on_done);
  // Cancels the calls that have not ended and waits for their ends.
  ~LoadClient();
  LoadClient(const LoadClient&) = delete;
  LoadClient& operator=(const LoadClient&) = delete;

  // Does the expensive part of a send, so that it can be done before the call is due. Thread-safe.
  CallPtr Prepare(const Prompt& prompt, int64_t intended_us);
  // Sends the call. Never waits for the server. Thread-safe.
  void Start(CallPtr call);

  // Cancels all calls, including calls that are started later; their records are marked as
  // abandoned. Thread-safe.
  void Abandon();

  int64_t num_in_flight() const { return num_in_flight_.load(std::memory_order_relaxed); }
  int64_t num_tokens() const { return num_tokens_.load(std::memory_order_relaxed); }

 private:
  void Receive();
  void End(CallPtr call);

  const ClientOptions options_;
  const OnDone on_done_;
  const SteadyClock clock_;
  const std::unique_ptr<v1::Inference::Stub> stub_;
  grpc::CompletionQueue queue_;
  std::atomic<int64_t> num_in_flight_{0};
  std::atomic<int64_t> num_tokens_{0};
  std::mutex mutex_;  // guards the members below
  std::condition_variable idle_;
  std::unordered_set<Call*> started_;
  bool abandoned_ = false;
  std::thread thread_;
};

}  // namespace tessera::bench
