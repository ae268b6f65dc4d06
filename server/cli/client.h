// A connection to a tesserad, the call under way (Ctrl-C cancels it), and how results and errors
// are shown.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>

namespace google::protobuf {
class Message;
}

namespace tessera::cli {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitInterrupted = 130;

class Client {
 public:
  Client(const std::string& server, std::optional<double> timeout_s, bool json);

  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }
  bool json() const { return json_; }

  // A context for the next call, with the deadline; it becomes the one that Ctrl-C cancels.
  grpc::ClientContext* NewCall();

  // Shows an error with its details on stderr. The exit status for it.
  int Report(const grpc::Status& status) const;
  // One line of JSON on stdout.
  static void PrintJson(const google::protobuf::Message& message);

 private:
  void WatchInterrupt();

  const std::shared_ptr<grpc::Channel> channel_;
  const std::optional<double> timeout_s_;
  const bool json_;
  std::mutex mutex_;
  std::unique_ptr<grpc::ClientContext> call_;
  bool interrupted_ = false;
};

}  // namespace tessera::cli
