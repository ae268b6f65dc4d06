// Tests of the responder without sockets, so that the thread sanitizer sees all synchronisation;
// the test's threads take the place of gRPC's. For any events in any order, a call ends exactly
// once and leaves no state.
#include <gtest/gtest.h>
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "scheduler/residency/adapters/adapter_registry.h"
#include "server/call/call_port.h"
#include "server/call/responder_pool.h"
#include "server/call/serving.h"
#include "server/call/stream_output.h"
#include "tessera/v1/inference.pb.h"
#include "tests/server/fake_generator.h"
#include "tests/server/fake_models.h"

namespace tessera::testing {
namespace {

// The transport of one call. It accepts messages at once; a slow transport accepts one message per
// Read().
class FakePort final : public CallPort {
 public:
  FakePort(ServingContext* context, ResponderPool* pool, std::string request, bool slow)
      : id_(context->next_call.fetch_add(1)),
        live_(&context->live),
        responder_(&pool->Of(id_)),
        request_(std::move(request)),
        slow_(slow) {
    live_->Opened();
  }

  void Open(Method method) { responder_->Open(id_, method, this); }
  // The client is gone, and the responder has not handled the report yet.
  void Break() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      broken_ = true;
    }
    Leave();
  }
  void Gone() {
    Break();
    responder_->Gone(id_);
    Read();  // as in gRPC, the write in flight fails
  }
  void CancelByName() { responder_->CancelCall(id_); }
  // Completes the write of the message in flight.
  void Read() {
    bool ok = false;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!in_flight_) return;
      in_flight_ = false;
      ok = !broken_;
    }
    responder_->WriteDone(id_, ok);
  }

  bool cancelled() const override {
    std::lock_guard<std::mutex> lock(mutex_);
    return broken_;
  }
  const absl::StatusOr<Caller>& caller() const override { return caller_; }
  void set_caller(absl::StatusOr<Caller> caller) { caller_ = std::move(caller); }
  std::string TakeRequest() override {
    taken_ = true;
    return std::move(request_);
  }
  void StartWrite(const google::protobuf::Message& message) override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      EXPECT_FALSE(in_flight_) << "two writes at once";
      EXPECT_FALSE(status_.has_value()) << "a write after the end";
      in_flight_ = true;
      messages_.emplace_back().CopyFrom(message);
      if (slow_ && !broken_) return;
    }
    Read();
  }
  void Finish(const absl::Status& status) override { End(status); }
  void Reply(const google::protobuf::Message&) override { End(absl::OkStatus()); }
  // Called on the responder's thread when the client is about to see the end of the call.
  void set_on_end(std::function<void(uint64_t call)> on_end) { on_end_ = std::move(on_end); }
  bool taken() const { return taken_; }

  bool ended() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return status_.has_value();
  }
  absl::Status status() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return status_.value_or(absl::UnknownError("not ended"));
  }
  std::vector<v1::GenerateResponse> messages() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return messages_;
  }
  std::string Text() const {
    std::string text;
    for (const v1::GenerateResponse& message : messages()) text += message.output().text();
    return text;
  }

 private:
  void Leave() {
    if (!left_.exchange(true)) live_->Closed();
  }
  void End(const absl::Status& status) {
    if (on_end_) on_end_(id_);
    std::lock_guard<std::mutex> lock(mutex_);
    EXPECT_FALSE(status_.has_value()) << "ended twice";
    EXPECT_FALSE(in_flight_) << "ended during a write";
    status_ = status;
    Leave();
  }

  const uint64_t id_;
  absl::StatusOr<Caller> caller_ = Caller();
  LiveCalls* const live_;
  Responder* const responder_;
  std::string request_;
  const bool slow_;
  mutable std::mutex mutex_;
  bool in_flight_ = false;
  bool broken_ = false;
  std::vector<v1::GenerateResponse> messages_;
  std::optional<absl::Status> status_;
  std::atomic<bool> left_{false};
  std::atomic<bool> taken_{false};
  std::function<void(uint64_t)> on_end_;
};

// The delay of google.rpc.RetryInfo; -1: the status has none.
int64_t RetryDelayUs(const absl::Status& status) {
  const auto payload = status.GetPayload("type.googleapis.com/google.rpc.RetryInfo");
  google::rpc::RetryInfo retry;
  if (!payload.has_value() || !retry.ParseFromString(std::string(*payload))) return -1;
  return retry.retry_delay().seconds() * 1'000'000 + retry.retry_delay().nanos() / 1000;
}

// The chats of the model "plain" would run for hours.
std::vector<ServedModel> ModelsWithEndlessChat() {
  std::vector<ServedModel> models = FakeModels();
  models[1].chat_templates = TemplatesOf(kEndlessTemplate);
  return models;
}

class ResponderTest : public ::testing::Test {
 protected:
  ResponderTest() : registry_(ModelsWithEndlessChat()) {}
  ~ResponderTest() override {
    EXPECT_EQ(context_.live.num_open(), 0);
    pool_.reset();
  }

  void Start(FakeGeneratorOptions fake, int32_t threads = 2, int64_t lane_bytes = 64 << 20) {
    generator_ = std::make_unique<FakeGenerator>(fake);
    context_.generator = generator_.get();
    context_.models = &registry_;
    context_.adapters = &adapters_;
    context_.clock = &clock_;
    pool_ = std::make_unique<ResponderPool>(threads, lane_bytes, &context_);
  }

  std::unique_ptr<FakePort> NewPort(const google::protobuf::Message& request, bool slow = false) {
    return std::make_unique<FakePort>(&context_, pool_.get(), request.SerializeAsString(), slow);
  }
  static v1::GenerateRequest NewRequest(const std::string& text, int64_t max_tokens,
                                        int32_t n = 1) {
    v1::GenerateRequest request;
    request.set_text(text);
    request.mutable_sampling()->set_n(n);
    request.mutable_stopping()->set_max_tokens(max_tokens);
    return request;
  }
  std::unique_ptr<FakePort> Call(const std::string& text, int64_t max_tokens, bool slow = false,
                                 int32_t n = 1) {
    auto port = NewPort(NewRequest(text, max_tokens, n), slow);
    port->Open(Method::kGenerate);
    return port;
  }

  std::unique_ptr<FakePort> Chat(const std::string& model, const std::string& text) {
    v1::ChatRequest request;
    request.set_model(model);
    request.add_messages()->set_role("user");
    request.mutable_messages(0)->set_content(text);
    request.mutable_stopping()->set_max_tokens(4);
    auto port =
        std::make_unique<FakePort>(&context_, pool_.get(), request.SerializeAsString(), false);
    port->Open(Method::kChat);
    return port;
  }

  static void WaitFor(const char* what, const std::function<bool()>& condition) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!condition()) {
      ASSERT_LT(std::chrono::steady_clock::now(), deadline) << "still waiting for " << what;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

  SteadyClock clock_;
  ModelRegistry registry_;
  AdapterRegistry adapters_{{}};
  ServingContext context_;
  std::unique_ptr<FakeGenerator> generator_;
  std::unique_ptr<ResponderPool> pool_;
};

TEST_F(ResponderTest, StreamsToItsEnd) {
  Start({});
  const auto port = Call("abc", 9);
  WaitFor("the end", [&] { return port->ended(); });
  EXPECT_TRUE(port->status().ok());
  EXPECT_EQ(port->Text(), "abcabc");
  EXPECT_TRUE(port->messages().front().has_accepted());
  EXPECT_TRUE(port->messages().back().has_finished());
}

TEST_F(ResponderTest, SlowReaderHoldsBackItselfOnly) {
  Start({.token_us = 100});
  context_.stream_buffer_bytes = 2048;
  const auto slow = Call("x", 4000, /*slow=*/true);
  WaitFor("the pause", [&] { return generator_->num_paused() == 1; });
  const auto other = Call("abc", 300);
  WaitFor("the other", [&] { return other->ended(); });
  EXPECT_EQ(generator_->num_paused(), 1);
  WaitFor("the end", [&] {
    slow->Read();
    return slow->ended();
  });
  EXPECT_TRUE(slow->status().ok());
  int64_t num_tokens = 0;
  for (const v1::GenerateResponse& message : slow->messages()) {
    num_tokens += message.output().token_ids_size();
  }
  EXPECT_EQ(num_tokens, 4000);
}

// The waiting messages are one per continuation, of about equal sizes. Reading a single message
// must not resume the stream, because it would then be paused and resumed all the time.
TEST_F(ResponderTest, APausedStreamResumesAtHalfItsBuffer) {
  constexpr int32_t kNumCopies = 8;
  Start({.token_us = 100});
  context_.stream_buffer_bytes = 8192;
  const auto slow = Call("x", 4000, /*slow=*/true, kNumCopies);
  WaitFor("the pause", [&] { return generator_->num_paused() == 1; });
  generator_->Hold();  // a resumed stream generates no more tokens
  const auto read = [&] {
    const size_t num_messages = slow->messages().size();
    slow->Read();
    WaitFor("a message", [&] { return slow->messages().size() > num_messages; });
  };
  for (int num_read = 1; num_read < kNumCopies / 2; ++num_read) {
    read();
    EXPECT_EQ(generator_->num_paused(), 1) << num_read;
  }
  for (int num_read = kNumCopies / 2; num_read <= kNumCopies; ++num_read) read();
  EXPECT_EQ(generator_->num_paused(), 0);
  slow->Gone();
  WaitFor("the end", [&] { return slow->ended(); });
  WaitFor("the engine", [&] { return generator_->num_live() == 0; });
}

TEST_F(ResponderTest, RefusalsNameAWaitThatIsNeverZero) {
  Start({.max_requests = 0, .queue_delay_us = 0});
  const auto full = Call("abc", 4);
  WaitFor("the refusal", [&] { return full->ended(); });
  EXPECT_EQ(full->status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_GE(RetryDelayUs(full->status()), 100'000);
  context_.max_open_calls = 0;
  const auto refused = Call("abc", 4);
  WaitFor("the refusal", [&] { return refused->ended(); });
  EXPECT_EQ(refused->status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_GE(RetryDelayUs(refused->status()), 100'000);
}

// Of a burst, the calls that fit are served, and they are those that came first: the calls that
// wait to be refused take no places.
TEST_F(ResponderTest, CallsThatAreRefusedDisplaceNoOthers) {
  constexpr size_t kRoom = 50;
  Start({.max_requests = kRoom, .held = true}, /*threads=*/1);
  context_.max_open_calls = kRoom + 10;
  std::vector<std::unique_ptr<FakePort>> ports;
  for (int i = 0; i < 500; ++i) ports.push_back(NewPort(NewRequest("abc", 4)));
  EXPECT_EQ(context_.live.num_open(), 500);
  for (const auto& port : ports) port->Open(Method::kGenerate);
  for (size_t i = kRoom; i < ports.size(); ++i) {
    WaitFor("the refusal", [&] { return ports[i]->ended(); });
    EXPECT_EQ(ports[i]->status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_FALSE(ports[i]->taken()) << "the refusal of call " << i << " read its request";
  }
  EXPECT_EQ(context_.live.num_open(), static_cast<int64_t>(kRoom));
  generator_->Release();
  for (size_t i = 0; i < kRoom; ++i) {
    WaitFor("the end", [&] { return ports[i]->ended(); });
    EXPECT_TRUE(ports[i]->status().ok()) << i << ": " << ports[i]->status();
  }
  // All places are free again.
  const auto next = Call("abc", 4);
  WaitFor("the end", [&] { return next->ended(); });
  EXPECT_TRUE(next->status().ok()) << next->status();
}

TEST_F(ResponderTest, ACallThatIsCancelledBeforeItsTurnIsNotPrepared) {
  Start({});
  const auto port = NewPort(NewRequest("abc", 4));
  EXPECT_EQ(context_.live.num_open(), 1);
  port->Break();
  EXPECT_EQ(context_.live.num_open(), 0);
  port->Open(Method::kGenerate);
  WaitFor("the end", [&] { return port->ended(); });
  EXPECT_EQ(port->status().code(), absl::StatusCode::kCancelled);
  EXPECT_FALSE(port->taken());
  EXPECT_EQ(generator_->num_submitted(), 0);
}

TEST_F(ResponderTest, ARequestIdIsFreeBeforeTheEndIsVisible) {
  Start({});
  v1::EmbedRequest embed;
  embed.add_inputs()->set_text("abc");
  embed.set_request_id("mine");
  v1::GenerateRequest stream = NewRequest("abc", 4);
  stream.set_request_id("mine");
  v1::GenerateRequest invalid = stream;
  invalid.mutable_sampling()->set_top_p(2);
  const std::pair<Method, const google::protobuf::Message*> cases[] = {
      {Method::kEmbed, &embed}, {Method::kGenerate, &stream}, {Method::kGenerate, &invalid}};
  for (const auto& [method, request] : cases) {
    const auto port = NewPort(*request);
    std::atomic<bool> is_free{false};
    port->set_on_end([&](uint64_t call) {
      is_free = context_.live.Register("", "mine", call + 1);
      context_.live.Unregister("", "mine", call + 1);
    });
    port->Open(method);
    WaitFor("the end", [&] { return port->ended(); });
    EXPECT_EQ(port->status().ok(), request != &invalid) << port->status();
    EXPECT_TRUE(is_free);
  }
}

TEST_F(ResponderTest, GoneInEveryState) {
  Start({.token_us = 100, .held = true});
  context_.stream_buffer_bytes = 256;
  const auto queued = Call("abc", 1000);
  const auto large = Call(std::string(60'000, 'x'), 1000);  // prepared by the preparer
  const auto unread = Call("abc", 1000, /*slow=*/true);
  large->Gone();
  WaitFor("the acceptance", [&] { return !unread->messages().empty(); });
  unread->Gone();
  queued->Gone();
  for (const FakePort* port : {queued.get(), large.get(), unread.get()}) {
    WaitFor("the end", [&] { return port->ended(); });
    EXPECT_FALSE(port->status().ok());
  }
  generator_->Release();
  const auto paused = Call("x", 4000, /*slow=*/true);
  WaitFor("the pause", [&] { return generator_->num_paused() == 1; });
  paused->Gone();
  WaitFor("the end", [&] { return paused->ended(); });
  WaitFor("the engine", [&] { return generator_->num_live() == 0; });
}

TEST_F(ResponderTest, OrdinaryRequestsDoNotWaitForHugeOnes) {
  Start({});
  std::vector<std::unique_ptr<FakePort>> huge;
  for (int i = 0; i < 60; ++i) huge.push_back(Call(std::string(200'000, 'x'), 4));
  const auto ordinary = Call(std::string(20'000, 'y'), 4);
  WaitFor("the ordinary one", [&] { return ordinary->ended(); });
  const auto num_ended =
      std::count_if(huge.begin(), huge.end(), [](const auto& port) { return port->ended(); });
  EXPECT_LT(num_ended, 40);
  for (const auto& port : huge) {
    WaitFor("the huge ones", [&] { return port->ended(); });
    EXPECT_EQ(port->status().code(), absl::StatusCode::kInvalidArgument) << port->status();
  }
}

// A rendering may take 10 ms with others and 250 ms in the lane of slow renderings.
TEST_F(ResponderTest, OrdinaryCallsDoNotWaitForSlowTemplates) {
  Start({});
  std::vector<std::unique_ptr<FakePort>> slow;
  for (int i = 0; i < 8; ++i) slow.push_back(Chat("plain", "hi"));
  for (int i = 0; i < 2; ++i) slow.push_back(Chat("plain", std::string(20'000, 'x')));
  std::vector<std::unique_ptr<FakePort>> ordinary;
  ordinary.push_back(Chat("bytes", "hi"));
  ordinary.push_back(Chat("bytes", "there"));
  ordinary.push_back(Call("abc", 4));
  for (const auto& port : ordinary) {
    WaitFor("the ordinary ones", [&] { return port->ended(); });
    EXPECT_TRUE(port->status().ok()) << port->status();
  }
  const auto large = Call(std::string(20'000, 'y'), 4);
  WaitFor("the large one", [&] { return large->ended(); });
  const auto num_ended =
      std::count_if(slow.begin(), slow.end(), [](const auto& port) { return port->ended(); });
  EXPECT_LT(num_ended, 8);
  for (const auto& port : slow) {
    WaitFor("the slow ones", [&] { return port->ended(); });
    EXPECT_EQ(port->status().code(), absl::StatusCode::kInvalidArgument) << port->status();
    EXPECT_NE(port->status().message().find("more than 250 ms"), std::string::npos);
  }
}

TEST_F(ResponderTest, SlowChatsLeaveTheirLaneWhenTheyAreGone) {
  Start({});
  std::vector<std::unique_ptr<FakePort>> gone;
  for (int i = 0; i < 200; ++i) gone.push_back(Chat("plain", "hi"));
  for (const auto& port : gone) port->Gone();
  // The lane holds 64 calls. The others are refused, or were gone before they came to it.
  for (const auto& port : gone) {
    WaitFor("the end", [&] { return port->ended(); });
  }
  const auto next = Chat("plain", "hi");
  WaitFor("the end of the next one", [&] { return next->ended(); });
  EXPECT_EQ(next->status().code(), absl::StatusCode::kInvalidArgument) << next->status();
}

TEST_F(ResponderTest, CallsThatAreOverLeaveTheLane) {
  Start({}, /*threads=*/2, /*lane_bytes=*/1 << 20);
  std::vector<std::unique_ptr<FakePort>> over;
  for (int i = 0; i < 5; ++i) over.push_back(Call(std::string(200'000, 'x'), 4));
  for (const auto& port : over) port->Gone();
  for (const auto& port : over) {
    WaitFor("the end", [&] { return port->ended(); });
  }
  const auto next = Call(std::string(200'000, 'y'), 4);
  WaitFor("its end", [&] { return next->ended(); });
  EXPECT_EQ(next->status().code(), absl::StatusCode::kInvalidArgument) << next->status();
}

// The bytes on the heap; 0 under the sanitizers, which have a heap of their own.
int64_t HeapBytes() {
  const struct mallinfo2 info = mallinfo2();
  return static_cast<int64_t>(info.uordblks + info.hblkhd);
}

TEST_F(ResponderTest, PromptScoresBecomeMessagesAsTheyAreTaken) {
  constexpr size_t kTokens = 5000;
  StreamOptions options;
  options.request_id = "r";
  options.model = &registry_.models().front();
  StreamOutput output(std::move(options));
  TokenEvent event;
  event.kind = TokenEvent::Kind::kPromptLogprobs;
  for (size_t i = 0; i < kTokens; ++i) {
    OutputToken& token = event.tokens.emplace_back();
    token.token = static_cast<TokenId>(i);
    token.top.assign(100, {7, -1.0f});
  }
  const int64_t before = HeapBytes();
  output.OnEvent(std::move(event));
  EXPECT_LT(HeapBytes() - before, 1 << 20);
  TokenEvent end;
  end.kind = TokenEvent::Kind::kFinished;
  output.OnEvent(std::move(end));

  WriteBuffer& buffer = output.buffer();
  EXPECT_GT(buffer.bytes(), 5 << 20);
  int num_messages = 0;
  int64_t next = 0;
  while (!buffer.empty()) {
    const int64_t bytes = buffer.bytes();
    const v1::GenerateResponse message = buffer.Take();
    EXPECT_LT(buffer.bytes(), bytes);
    EXPECT_LT(message.ByteSizeLong(), (1u << 20) + 4096);
    EXPECT_EQ(message.request_id(), "r");
    if (message.has_finished()) {
      EXPECT_TRUE(buffer.empty());
      continue;
    }
    ++num_messages;
    for (const v1::TokenLogprob& score : message.prompt().logprobs()) {
      EXPECT_EQ(score.token_id(), next++);
      EXPECT_EQ(score.top_size(), 100);
    }
  }
  EXPECT_EQ(next, static_cast<int64_t>(kTokens));
  EXPECT_GT(num_messages, 5);
  EXPECT_EQ(buffer.bytes(), 0);
}

// Four threads open, read, abandon and cancel calls at random, until a shutdown cancels all calls.
TEST_F(ResponderTest, RandomLivesEndOnceAndLeaveNothing) {
  Start({.max_requests = 24, .token_us = 20}, /*threads=*/3);
  context_.stream_buffer_bytes = 1024;
  std::atomic<int> num_ok{0};
  const auto transport = [&](uint32_t seed) {
    std::mt19937 random(seed);
    std::vector<std::unique_ptr<FakePort>> open;
    std::vector<std::unique_ptr<FakePort>> ended;
    for (int turn = 0; turn < 600; ++turn) {
      if (open.size() < 10) {
        const bool large = random() % 16 == 0;
        open.push_back(Call(large ? std::string(20'000, 'y') : absl::StrCat("call ", turn),
                            1 + random() % 200, random() % 2 == 0));
      }
      FakePort& port = *open[random() % open.size()];
      switch (random() % 12) {
        case 0:
          port.Gone();
          break;
        case 1:
          port.CancelByName();
          break;
        default:
          port.Read();
          break;
      }
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 200));
      for (size_t i = 0; i < open.size();) {
        if (!open[i]->ended()) {
          ++i;
          continue;
        }
        num_ok += open[i]->status().ok();
        ended.push_back(std::move(open[i]));
        open.erase(open.begin() + static_cast<ptrdiff_t>(i));
      }
    }
    pool_->CancelAll();
    WaitFor("the last calls", [&] {
      bool all = true;
      for (const auto& port : open) {
        port->Read();
        all = all && port->ended();
      }
      return all;
    });
  };
  std::vector<std::thread> transports;
  for (uint32_t seed = 0; seed < 4; ++seed) transports.emplace_back(transport, seed);
  for (std::thread& thread : transports) thread.join();
  WaitFor("the engine", [&] { return generator_->num_live() == 0; });
  EXPECT_GT(num_ok, 0);
  EXPECT_EQ(context_.live.num_open(), 0);
}

}  // namespace
}  // namespace tessera::testing
