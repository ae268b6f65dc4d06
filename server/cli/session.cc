#include "server/cli/session.h"

#include <google/protobuf/util/json_util.h>

#include <chrono>
#include <cstdio>
#include <utility>

#include "server/cli/channel.h"
#include "server/cli/output.h"

namespace tessera::cli {
Session::Session(SessionOptions options)
    : options_(std::move(options)),
      interrupts_([this] { return OnSignal(); }),
      channel_(NewChannel(options_.connection)),
      inference_(v1::Inference::NewStub(channel_)),
      control_(v1::Control::NewStub(channel_)) {}

bool Session::OnSignal() {
  std::lock_guard<std::mutex> lock(mutex_);
  // The first signal during a call cancels the call. A second signal, or a signal between calls,
  // ends the program.
  if (interrupted_ || current_ == nullptr) return false;
  interrupted_ = true;
  current_->TryCancel();
  return true;
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

void Session::FlushOrCancel() {
  if (output_failed_) return;
  const absl::Status written = FlushOutput();
  if (written.ok()) return;
  output_failed_ = true;
  std::fprintf(stderr, "tessera: %s\n", std::string(written.message()).c_str());
  std::lock_guard<std::mutex> lock(mutex_);
  if (current_ != nullptr) current_->TryCancel();
}

int Session::Fail(const grpc::Status& status) const {
  if (interrupted()) {
    std::fprintf(stderr, "tessera: cancelled\n");
    return kInterrupted;
  }
  std::fprintf(stderr, "tessera: %s\n", FailureText(status, options_.connection).c_str());
  return kFailed;
}

void Session::PrintJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string text;
  if (!google::protobuf::util::MessageToJsonString(message, &text, options).ok()) return;
  std::printf("%s\n", text.c_str());
}

}  // namespace tessera::cli
