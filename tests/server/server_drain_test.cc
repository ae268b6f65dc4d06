// Tests of the end of a server: a call that the server has not accepted ends with UNAVAILABLE, so
// that its client sends it to another server.
#include <atomic>
#include <map>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/server/server_fixture.h"

namespace tessera::testing {
namespace {

class DrainTest : public ServerTest {
 protected:
  void SetUp() override {}
};

// Ends the server as the node does while clients send calls without a pause.
TEST_F(DrainTest, CallsThatComeAsTheServerEndsAreUnavailable) {
  constexpr int kClients = 8;
  Start({}, {});
  std::mutex mutex;
  std::map<std::string, int> failures;  // by code and message
  std::atomic<int64_t> num_ok{0};
  std::atomic<bool> ended{false};
  std::vector<std::thread> clients;
  for (int i = 0; i < kClients; ++i) {
    clients.emplace_back([&, channel = NewChannel()] {
      const auto stub = v1::Inference::NewStub(channel);
      while (!ended) {
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
      }
    });
  }
  WaitFor("calls", [&] { return num_ok > 100; });
  server_->BeginDrain();
  WaitFor("the calls to end", [&] { return server_->num_open_calls() == 0; });
  server_->Shutdown(/*grace_us=*/5'000'000);
  ended = true;
  for (std::thread& client : clients) client.join();
  EXPECT_FALSE(failures.empty());
  for (const auto& [failure, count] : failures) {
    EXPECT_EQ(failure.rfind("14 ", 0), 0u) << count << " x " << failure;
  }
}

}  // namespace
}  // namespace tessera::testing
