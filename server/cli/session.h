// The state that all commands of `tessera` share: the connection, the output format, and the
// current call, which Ctrl-C cancels. Owned by main and used on its thread; signals arrive on the
// thread of Interrupts.
#pragma once

#include <grpcpp/client_context.h>

#include <memory>
#include <mutex>

#include "server/cli/connection.h"
#include "server/cli/interrupts.h"
#include "tessera/v1/control.grpc.pb.h"
#include "tessera/v1/inference.grpc.pb.h"

namespace tessera::cli {

inline constexpr int kOk = 0;
inline constexpr int kFailed = 1;  // the call failed or the server did not answer
inline constexpr int kUsage = 2;   // the command line is wrong

struct SessionOptions {
  ConnectionOptions connection;
  bool json = false;
  double deadline_seconds = 0;  // 0: no deadline
};

class Session final {
 public:
  // REQUIRES: the program has started no other thread (see Interrupts).
  explicit Session(SessionOptions options);
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  bool json() const { return options_.json; }
  v1::Inference::Stub& inference() { return *inference_; }
  v1::Control::Stub& control() { return *control_; }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

  // Creates the context of the current call, which Ctrl-C cancels. EndContext ends it. REQUIRES: no
  // other call is current.
  std::unique_ptr<grpc::ClientContext> NewContext();
  void EndContext();
  bool interrupted() const;

  // Writes the printed part of a stream to standard output. If it cannot be written, prints why,
  // cancels the current call, and output_failed() is true from then on.
  void FlushOrCancel();
  bool output_failed() const { return output_failed_; }

  // Prints the failure and its useful details to stderr; returns the exit status.
  int Fail(const grpc::Status& status) const;
  // Prints a message as one line of JSON.
  static void PrintJson(const google::protobuf::Message& message);

 private:
  bool OnSignal();

  const SessionOptions options_;
  mutable std::mutex mutex_;
  grpc::ClientContext* current_ = nullptr;
  bool interrupted_ = false;
  bool output_failed_ = false;  // main thread only
  Interrupts interrupts_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Inference::Stub> inference_;
  std::unique_ptr<v1::Control::Stub> control_;
};

// Runs one unary call, prints its failure and returns the exit status.
template <class Call>
int RunUnary(Session* session, const Call& call) {
  const std::unique_ptr<grpc::ClientContext> context = session->NewContext();
  const grpc::Status status = call(context.get());
  session->EndContext();
  return status.ok() ? kOk : session->Fail(status);
}

}  // namespace tessera::cli
