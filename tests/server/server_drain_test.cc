// Tests of the end of a server: a call that the server has not accepted ends with UNAVAILABLE, so
// that its client sends it to another server.
#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/server/server_fixture.h"

namespace tessera::testing {
namespace {

class DrainTest : public ServerTest {
 protected:
  void SetUp() override {}
};

// Ends the server as the node does while clients send calls without a pause, each until a call of
// its own fails.
TEST_F(DrainTest, CallsThatComeAsTheServerEndsAreUnavailable) {
  constexpr int kClients = 8;
  Start({}, {});
  std::mutex mutex;
  std::map<std::string, int> failures;  // by code and message
  std::atomic<int64_t> num_ok{0};
  std::vector<std::thread> clients;
  for (int i = 0; i < kClients; ++i) {
    clients.emplace_back([&, channel = NewChannel()] {
      const auto stub = v1::Inference::NewStub(channel);
      for (;;) {
        const auto context = NewContext();
        const auto reader = stub->Generate(context.get(), TextRequest("abc", 2));
        v1::GenerateResponse message;
        while (reader->Read(&message)) {
        }
        const grpc::Status status = reader->Finish();
        if (status.ok()) {
          ++num_ok;
          continue;
        }
        const std::lock_guard<std::mutex> lock(mutex);
        ++failures[absl::StrCat(status.error_code(), " ", status.error_message())];
        return;
      }
    });
  }
  WaitFor("calls", [&] { return num_ok > 100; });
  server_->BeginDrain();
  WaitFor("the calls to end", [&] { return server_->num_open_calls() == 0; });
  server_->Shutdown(/*grace_us=*/5'000'000);
  for (std::thread& client : clients) client.join();
  EXPECT_FALSE(failures.empty());
  for (const auto& [failure, count] : failures) {
    EXPECT_EQ(failure.rfind("14 ", 0), 0u) << count << " x " << failure;
  }
}

// No call is open when the server begins to end, but many are on their way.
TEST_F(DrainTest, CallsOnTheirWayToAnEndingServerAreUnavailable) {
  constexpr int kClients = 32;
  for (int round = 0; round < 5; ++round) {
    Start({}, {});
    std::atomic<int> num_ready{0};
    std::atomic<bool> sent{false};
    std::vector<grpc::Status> statuses(kClients);
    std::vector<std::thread> clients;
    for (grpc::Status& status : statuses) {
      clients.emplace_back([&] {
        const auto channel = NewChannel();
        const auto stub = v1::Inference::NewStub(channel);
        EXPECT_TRUE(
            channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(60)));
        const auto context = NewContext();
        ++num_ready;
        while (!sent) std::this_thread::yield();
        const auto reader = stub->Generate(context.get(), TextRequest("abc", 2));
        v1::GenerateResponse message;
        while (reader->Read(&message)) {
        }
        status = reader->Finish();
      });
    }
    WaitFor("the clients", [&] { return num_ready == kClients; });
    sent = true;
    server_->BeginDrain();
    WaitFor("the calls to end", [&] { return server_->num_open_calls() == 0; });
    server_->Shutdown(/*grace_us=*/5'000'000);
    for (std::thread& client : clients) client.join();
    for (const grpc::Status& status : statuses) {
      EXPECT_TRUE(status.ok() || status.error_code() == grpc::StatusCode::UNAVAILABLE)
          << status.error_code() << " " << status.error_message();
    }
  }
}

}  // namespace
}  // namespace tessera::testing
