#include "server/cli/client.h"

#include <google/protobuf/util/json_util.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <thread>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace tessera::cli {
namespace {

const char* CodeName(grpc::StatusCode code) {
  static const char* const kNames[] = {"OK",
                                       "CANCELLED",
                                       "UNKNOWN",
                                       "INVALID_ARGUMENT",
                                       "DEADLINE_EXCEEDED",
                                       "NOT_FOUND",
                                       "ALREADY_EXISTS",
                                       "PERMISSION_DENIED",
                                       "RESOURCE_EXHAUSTED",
                                       "FAILED_PRECONDITION",
                                       "ABORTED",
                                       "OUT_OF_RANGE",
                                       "UNIMPLEMENTED",
                                       "INTERNAL",
                                       "UNAVAILABLE",
                                       "DATA_LOSS",
                                       "UNAUTHENTICATED"};
  return code >= 0 && code <= 16 ? kNames[code] : "UNKNOWN";
}

}  // namespace

Client::Client(const std::string& server, std::optional<double> timeout_s, bool json)
    : channel_([&server] {
        grpc::ChannelArguments arguments;
        arguments.SetMaxReceiveMessageSize(-1);
        return grpc::CreateCustomChannel(server, grpc::InsecureChannelCredentials(), arguments);
      }()),
      timeout_s_(timeout_s),
      json_(json) {
  WatchInterrupt();
}

// REQUIRES: SIGINT is blocked in all threads.
void Client::WatchInterrupt() {
  std::thread([this] {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    int signal = 0;
    while (sigwait(&signals, &signal) == 0) {
      std::lock_guard<std::mutex> lock(mutex_);
      // A second Ctrl-C, or one between calls, just ends the program.
      if (interrupted_ || call_ == nullptr) std::_Exit(kExitInterrupted);
      interrupted_ = true;
      call_->TryCancel();
    }
  }).detach();
}

grpc::ClientContext* Client::NewCall() {
  std::lock_guard<std::mutex> lock(mutex_);
  call_ = std::make_unique<grpc::ClientContext>();
  if (timeout_s_) {
    call_->set_deadline(std::chrono::system_clock::now() +
                        std::chrono::milliseconds(static_cast<int64_t>(*timeout_s_ * 1e3)));
  }
  return call_.get();
}

int Client::Report(const grpc::Status& status) const {
  if (status.ok()) return kExitOk;
  if (status.error_code() == grpc::StatusCode::CANCELLED) {
    std::fprintf(stderr, "\ncancelled\n");
    return kExitInterrupted;
  }
  std::fprintf(stderr, "tessera: %s: %s\n", CodeName(status.error_code()),
               status.error_message().c_str());
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return kExitFailed;
  for (const auto& detail : details.details()) {
    google::rpc::RetryInfo retry;
    if (!detail.UnpackTo(&retry)) continue;
    const double seconds = static_cast<double>(retry.retry_delay().seconds()) +
                           1e-9 * static_cast<double>(retry.retry_delay().nanos());
    std::fprintf(stderr, "tessera: try again in %.1f s\n", seconds);
  }
  return kExitFailed;
}

void Client::PrintJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string text;
  if (!google::protobuf::util::MessageToJsonString(message, &text, options).ok()) return;
  std::printf("%s\n", text.c_str());
  std::fflush(stdout);
}

}  // namespace tessera::cli
