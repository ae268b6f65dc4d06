// The fixture of tests that call a server over real sockets: the server with a fake generator, and
// helpers for the client side. Used on the test's thread.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <functional>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "scheduler/residency/adapters/adapter_registry.h"
#include "server/call/serving.h"
#include "server/grpc/server.h"
#include "tessera/v1/control.grpc.pb.h"
#include "tessera/v1/inference.grpc.pb.h"
#include "tests/lib/any_files.h"
#include "tests/server/fake_generator.h"
#include "tests/server/fake_models.h"

namespace tessera::testing {

struct StreamResult {
  grpc::Status status;
  std::vector<v1::GenerateResponse> messages;

  std::string Text(int index = 0) const;
  std::vector<int> Ids(int index = 0) const;
  const v1::GenerateResponse* FinishedOf(int index = 0) const;  // null: the index is not finished
  // Checks the order of the stream's messages against the contract in inference.proto; reports
  // failures to gtest.
  void ExpectWellFormed(int n = 1) const;
};

// Reads a stream to its end.
StreamResult ReadAll(std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader);

class ServerTest : public ::testing::Test {
 protected:
  void SetUp() override { Start({}, {}); }
  void TearDown() override { Stop(); }

  void Start(FakeGeneratorOptions fake, ServerOptions options);
  void Stop();

  std::unique_ptr<grpc::ClientContext> NewContext(int64_t deadline_ms = 20'000) const;
  // The arguments of the clients' channels.
  static grpc::ChannelArguments ChannelArguments();
  virtual std::shared_ptr<grpc::Channel> NewChannel() const;
  StreamResult Generate(const v1::GenerateRequest& request, int64_t deadline_ms = 20'000);
  StreamResult Chat(const v1::ChatRequest& request);
  static v1::GenerateRequest TextRequest(const std::string& text, int64_t max_tokens = 4);

  // Waits until `condition` holds; fails the test after a minute.
  static void WaitFor(const char* what, const std::function<bool()>& condition);

  std::unique_ptr<FakeGenerator> generator_;
  std::unique_ptr<ModelRegistry> registry_;
  AdapterRegistryOptions adapter_options_ = AnyFiles();
  std::unique_ptr<AdapterRegistry> adapters_;  // registry whose models have empty specs
  // The adapter operations that Control asked for, in order.
  std::vector<std::pair<AdapterId, std::string>> adapter_verbs_;
  bool holds_loads_ = false;  // the next load is not answered but stored in held_load_
  std::promise<AdapterWait> held_load_;
  std::unique_ptr<ServingContext> context_;
  SteadyClock clock_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<v1::Inference::Stub> stub_;
  std::unique_ptr<v1::Control::Stub> control_;
};

// The details of an error: ErrorInfo's reason and domain, RetryInfo's delay (-1: none), and the
// field of BadRequest.
struct ErrorFacts {
  std::string reason;
  std::string domain;
  int64_t retry_us = -1;
  std::string bad_field;
};
ErrorFacts FactsOf(const grpc::Status& status);

}  // namespace tessera::testing
