// What every command of `tessera` shares: the connection, the way errors and JSON are printed, and
// Ctrl-C, which cancels the call that is under way.
#pragma once

#include <grpcpp/client_context.h>

#include <memory>
#include <mutex>
#include <string>

#include "server/cli/interrupts.h"
#include "tessera/v1/control.grpc.pb.h"
#include "tessera/v1/inference.grpc.pb.h"

namespace tessera::cli {

inline constexpr int kOk = 0;
inline constexpr int kFailed = 1;  // the server said no, or nobody answered
inline constexpr int kUsage = 2;   // the command line is wrong

struct SessionOptions {
  std::string server;
  bool json = false;
  double deadline_seconds = 0;  // 0: none
};

class Session final {
 public:
  // Construct it before anything else starts threads (see Interrupts).
  explicit Session(SessionOptions options);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  bool json() const { return options_.json; }
  v1::Inference::Stub& inference() { return *inference_; }
  v1::Control::Stub& control() { return *control_; }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

  // A context that Ctrl-C cancels, one at a time.
  std::unique_ptr<grpc::ClientContext> NewContext();
  void EndContext();
  bool interrupted() const;

  // Says what went wrong, with the details that help; returns the exit status.
  int Fail(const grpc::Status& status) const;
  // Prints a message as one line of JSON.
  static void PrintJson(const google::protobuf::Message& message);

 private:
  bool OnSignal();

  const SessionOptions options_;
  mutable std::mutex mutex_;
  grpc::ClientContext* current_ = nullptr;
  bool interrupted_ = false;
  Interrupts interrupts_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Inference::Stub> inference_;
  std::unique_ptr<v1::Control::Stub> control_;
};

// Runs one unary call and returns the exit status when it failed.
template <class Call>
int RunUnary(Session* session, const Call& call) {
  const std::unique_ptr<grpc::ClientContext> context = session->NewContext();
  const grpc::Status status = call(context.get());
  session->EndContext();
  return status.ok() ? kOk : session->Fail(status);
}

}  // namespace tessera::cli
