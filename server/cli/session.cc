#include "server/cli/session.h"

#include <google/protobuf/util/json_util.h>
#include <google/rpc/error_details.pb.h>
#include <google/rpc/status.pb.h>
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <utility>

#include "absl/status/status.h"

namespace tessera::cli {
namespace {

// How long a server may take to accept the connection; one that is being restarted is not missed.
constexpr std::chrono::milliseconds kConnectPatience(500);

sigset_t InterruptSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  return signals;
}

void PrintDetails(const std::string& bytes) {
  google::rpc::Status details;
  if (bytes.empty() || !details.ParseFromString(bytes)) return;
  for (const google::protobuf::Any& any : details.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::RetryInfo retry;
    if (any.UnpackTo(&info)) {
      std::fprintf(stderr, "  reason: %s\n", info.reason().c_str());
    } else if (any.UnpackTo(&retry)) {
      const double seconds = static_cast<double>(retry.retry_delay().seconds()) +
                             static_cast<double>(retry.retry_delay().nanos()) / 1e9;
      std::fprintf(stderr, "  try again in %.1f s\n", seconds);
    }
  }
}

}  // namespace

Session::Session(SessionOptions options) : options_(std::move(options)) {
  const sigset_t signals = InterruptSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  channel_ =
      grpc::CreateCustomChannel(options_.server, grpc::InsecureChannelCredentials(), arguments);
  // Whether it worked is said by the call that follows.
  channel_->WaitForConnected(std::chrono::system_clock::now() + kConnectPatience);
  inference_ = v1::Inference::NewStub(channel_);
  control_ = v1::Control::NewStub(channel_);
  signal_thread_ = std::thread([this] { WaitForSignals(); });
}

Session::~Session() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ended_ = true;
  }
  // It waits for this signal with sigwait; nothing is terminated.
  // NOLINTNEXTLINE(bugprone-bad-signal-to-kill-thread)
  pthread_kill(signal_thread_.native_handle(), SIGTERM);
  signal_thread_.join();
}

void Session::WaitForSignals() {
  const sigset_t signals = InterruptSignals();
  for (;;) {
    int number = 0;
    if (sigwait(&signals, &number) != 0) return;
    std::lock_guard<std::mutex> lock(mutex_);
    if (ended_) return;
    // The first one cancels; a second one, or one between calls, ends the program.
    if (interrupted_ || current_ == nullptr) _exit(kInterrupted);
    interrupted_ = true;
    current_->TryCancel();
  }
}

std::unique_ptr<grpc::ClientContext> Session::NewContext() {
  auto context = std::make_unique<grpc::ClientContext>();
  if (options_.deadline_seconds > 0) {
    const auto delay = std::chrono::duration<double>(options_.deadline_seconds);
    context->set_deadline(std::chrono::system_clock::now() +
                          std::chrono::duration_cast<std::chrono::microseconds>(delay));
  }
  std::lock_guard<std::mutex> lock(mutex_);
  current_ = context.get();
  interrupted_ = false;
  return context;
}

void Session::EndContext() {
  std::lock_guard<std::mutex> lock(mutex_);
  current_ = nullptr;
}

bool Session::interrupted() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return interrupted_;
}

int Session::Fail(const grpc::Status& status) const {
  if (interrupted()) {
    std::fprintf(stderr, "tessera: cancelled\n");
    return kInterrupted;
  }
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  std::fprintf(stderr, "tessera: %s: %s\n", absl::StatusCodeToString(code).c_str(),
               status.error_message().c_str());
  PrintDetails(status.error_details());
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE && status.error_details().empty()) {
    std::fprintf(stderr, "  is tesserad running at %s? (--server HOST:PORT)\n",
                 options_.server.c_str());
  }
  return kFailed;
}

void Session::PrintJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string text;
  if (!google::protobuf::util::MessageToJsonString(message, &text, options).ok()) return;
  std::printf("%s\n", text.c_str());
  std::fflush(stdout);
}

}  // namespace tessera::cli
