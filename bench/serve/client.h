// The client: any number of streaming Generate calls over one connection, on one completion queue
// with one thread that takes the time of every message the moment it is there. Memory of a call is
// reused for all its messages, and nothing is logged or computed on that thread beyond what a
// message itself asks for, so that the client stays a small share of a core.
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
  v1::GenerateRequest base;       // all but the prompt and max_tokens
  double deadline_seconds = 600;  // of a call, from its intended time: a dead server ends the run
};

class LoadClient final {
 public:
  // A call that is ready to be sent. One that is not sent costs the server nothing.
  class Call;
  struct CallDeleter {
    void operator()(Call* call) const;
  };
  using CallPtr = std::unique_ptr<Call, CallDeleter>;
  // Called on the client's thread when a call has ended. It may start further calls.
  using OnDone = std::function<void(RequestRecord)>;

  LoadClient(const std::shared_ptr<grpc::Channel>& channel, ClientOptions options, OnDone on_done);
  // Cancels what is left and waits for its end.
  ~LoadClient();
  LoadClient(const LoadClient&) = delete;
  LoadClient& operator=(const LoadClient&) = delete;

  // The costly part of a send, for the time before it is due. Thread-safe.
  CallPtr Prepare(const Prompt& prompt, int64_t intended_us);
  // Thread-safe. Never waits for the server.
  void Start(CallPtr call);

  // Ends all calls as abandoned, also those that are started later. Thread-safe.
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
  std::mutex mutex_;  // guards what follows
  std::condition_variable idle_;
  std::unordered_set<Call*> started_;
  bool abandoned_ = false;
  std::thread thread_;
};

}  // namespace tessera::bench
