// Tests of the whole stack in one process, over real sockets, with the shipped model. Whatever
// clients do, in the end every page is free or cached, no call is open, and no thread is left over.
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"
#include "server/node.h"
#include "tessera/v1/config.pb.h"
#include "tessera/v1/control.grpc.pb.h"
#include "tessera/v1/inference.grpc.pb.h"
#include "tests/lib/sanitizers.h"

namespace tessera {
namespace {

constexpr char kModel[] = "deploy/models/tessera-nano";

int64_t CountThreads() {
  int64_t count = 0;
  for ([[maybe_unused]] const auto& entry :
       std::filesystem::directory_iterator("/proc/self/task")) {
    ++count;
  }
  return count;
}

bool WaitFor(const std::function<bool()>& condition, int64_t timeout_ms = 30'000) {
  for (int64_t i = 0; i < timeout_ms; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

struct Outcome {
  grpc::Status status;
  std::string text;
  int64_t num_tokens = 0;
  int num_finished = 0;
  v1::FinishReason reason = v1::FINISH_REASON_UNSPECIFIED;
};

// A client stream that reads messages as they arrive, on gRPC's threads.
class StreamClient final : public grpc::ClientReadReactor<v1::GenerateResponse> {
 public:
  StreamClient(v1::Inference::Stub* stub, v1::GenerateRequest request)
      : request_(std::move(request)) {
    stub->async()->Generate(&context_, &request_, this);
    StartRead(&response_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      outcome_.text += response_.output().text();
      outcome_.num_tokens += response_.output().token_ids_size();
      if (response_.has_finished()) {
        ++outcome_.num_finished;
        outcome_.reason = response_.finished().reason();
      }
    }
    StartRead(&response_);
  }
  void OnDone(const grpc::Status& status) override {
    std::lock_guard<std::mutex> lock(mutex_);
    outcome_.status = status;
    done_ = true;
    changed_.notify_all();
  }

  void Cancel() { context_.TryCancel(); }
  Outcome Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return done_; });
    return outcome_;
  }
  int64_t num_tokens() {
    std::lock_guard<std::mutex> lock(mutex_);
    return outcome_.num_tokens;
  }

 private:
  const v1::GenerateRequest request_;
  grpc::ClientContext context_;
  v1::GenerateResponse response_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Outcome outcome_;
  bool done_ = false;
};

class NodeTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { InitLogging("error"); }
  void TearDown() override { Stop(); }

  // Streams the same few prompts a thousand times at once, and expects the same texts.
  void RunAThousandStreams();

  void Start(const std::function<void(v1::Config*)>& change = [](v1::Config*) {}) {
    v1::Config config;
    config.add_models()->set_name("first");
    config.mutable_models(0)->set_path(kModel);
    config.mutable_server()->set_listen("127.0.0.1:0");
    config.mutable_server()->set_metrics_listen("127.0.0.1:0");
    config.mutable_engine()->set_threads(1);
    config.mutable_engine()->set_kv_cache_bytes(32 << 20);
    change(&config);
    auto node = StartNode(config);
    ASSERT_TRUE(node.ok()) << node.status();
    node_ = *std::move(node);
    stub_ = v1::Inference::NewStub(NewChannel());
    control_ = v1::Control::NewStub(NewChannel());
  }
  void Stop() {
    stub_.reset();
    control_.reset();
    node_.reset();
  }

  std::shared_ptr<grpc::Channel> NewChannel() const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 64 << 10);
    return grpc::CreateCustomChannel(node_->grpc_address(), grpc::InsecureChannelCredentials(),
                                     arguments);
  }
  static v1::GenerateRequest Request(const std::string& text, int64_t max_tokens) {
    v1::GenerateRequest request;
    request.set_text(text);
    request.mutable_sampling()->set_temperature(0);
    request.mutable_stopping()->set_max_tokens(max_tokens);
    request.mutable_stopping()->set_ignore_eos(true);
    return request;
  }
  static v1::GenerateRequest LongPrompt(int64_t max_tokens) {
    v1::GenerateRequest request = Request("", max_tokens);
    for (int i = 0; i < 900; ++i) request.mutable_token_ids()->add_ids(100 + i % 800);
    return request;
  }
  v1::GetLoadResponse Load() {
    grpc::ClientContext context;
    v1::GetLoadResponse load;
    EXPECT_TRUE(control_->GetLoad(&context, {}, &load).ok());
    return load;
  }
  // Waits until no call holds any resource.
  void ExpectIdle() {
    EXPECT_TRUE(WaitFor([this] {
      const v1::GetLoadResponse load = Load();
      return load.running() == 0 && load.waiting() == 0 && load.calls() == 0 &&
             load.kv_bytes() == 0;
    })) << Load().ShortDebugString();
    const v1::GetLoadResponse load = Load();
    EXPECT_EQ(load.free_bytes() + load.cached_bytes(), load.pool_bytes());
    StreamClient after(stub_.get(), Request("Once upon a time", 4));
    EXPECT_TRUE(after.Wait().status.ok());
  }

  std::unique_ptr<Node> node_;
  std::unique_ptr<v1::Inference::Stub> stub_;
  std::unique_ptr<v1::Control::Stub> control_;
};

TEST_F(NodeTest, GeneratesTheSameAloneAndAmongOthers) {
  Start();
  const Outcome alone = StreamClient(stub_.get(), Request("Once upon a time", 60)).Wait();
  ASSERT_TRUE(alone.status.ok()) << alone.status.error_message();
  EXPECT_EQ(alone.num_tokens, 60);
  EXPECT_GT(alone.text.size(), 60u);
  std::vector<std::unique_ptr<StreamClient>> streams;
  for (int i = 0; i < 20; ++i) {
    streams.push_back(std::make_unique<StreamClient>(
        stub_.get(),
        Request(i % 2 == 0 ? "Once upon a time" : absl::StrCat("There were ", i), 60)));
  }
  for (int i = 0; i < 20; ++i) {
    const Outcome outcome = streams[static_cast<size_t>(i)]->Wait();
    ASSERT_TRUE(outcome.status.ok());
    if (i % 2 == 0) {
      EXPECT_EQ(outcome.text, alone.text);
    }
  }
  ExpectIdle();
}

TEST_F(NodeTest, EqualWeightsHaveEqualRevisionsWhereverTheyLie) {
  const std::string link = ::testing::TempDir() + absl::StrCat("/node_revision_", getpid());
  std::filesystem::create_directory_symlink(std::filesystem::absolute(kModel), link);
  Start([&](v1::Config* config) {
    v1::ModelConfig* const second = config->add_models();
    second->set_name("second");
    second->set_path(link);
  });
  std::filesystem::remove(link);
  grpc::ClientContext context;
  v1::ListModelsResponse list;
  ASSERT_TRUE(control_->ListModels(&context, {}, &list).ok());
  ASSERT_EQ(list.models_size(), 2);
  const std::string& revision = list.models(0).revision();
  EXPECT_EQ(revision.size(), 16u) << revision;
  EXPECT_EQ(revision.find_first_not_of("0123456789abcdef"), std::string::npos) << revision;
  EXPECT_EQ(list.models(1).revision(), revision);
}

TEST_F(NodeTest, CancelWhileQueued) {
  Start([](v1::Config* config) { config->mutable_engine()->set_max_num_seqs(1); });
  StreamClient first(stub_.get(), Request("One", 900));
  ASSERT_TRUE(WaitFor([&] { return first.num_tokens() > 0; }));
  StreamClient second(stub_.get(), Request("Two", 900));
  ASSERT_TRUE(WaitFor([&] { return Load().waiting() == 1; }));
  second.Cancel();
  EXPECT_EQ(second.Wait().status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(WaitFor([&] { return Load().waiting() == 0; }, 1000));
  first.Cancel();
  first.Wait();
  ExpectIdle();
}

TEST_F(NodeTest, CancelWhilePrefilling) {
  Start([](v1::Config* config) {
    config->mutable_engine()->set_device("ref");  // a slow backend, so that requests stay open
    config->mutable_engine()->set_max_num_seqs(4);
    config->mutable_engine()->set_max_num_batched_tokens(8);
  });
  StreamClient stream(stub_.get(), LongPrompt(10));
  ASSERT_TRUE(WaitFor([&] { return Load().kv_bytes() > 0; }));
  EXPECT_EQ(stream.num_tokens(), 0);
  stream.Cancel();
  EXPECT_EQ(stream.Wait().status.error_code(), grpc::StatusCode::CANCELLED);
  ExpectIdle();
}

TEST_F(NodeTest, CancelWhileDecoding) {
  Start();
  StreamClient stream(stub_.get(), Request("Once", 900));
  ASSERT_TRUE(WaitFor([&] { return stream.num_tokens() > 5; }));
  stream.Cancel();
  EXPECT_EQ(stream.Wait().status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_LT(stream.num_tokens(), 900);
  ExpectIdle();
}

TEST_F(NodeTest, CancelOneOfSeveralCopiesByStopText) {
  Start();
  v1::GenerateRequest request = Request("Once upon a time", 200);
  request.mutable_sampling()->set_n(8);
  request.mutable_sampling()->set_temperature(1);
  request.mutable_stopping()->add_stop("e");
  StreamClient stream(stub_.get(), request);
  const Outcome outcome = stream.Wait();
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  EXPECT_EQ(outcome.num_finished, 8);
  EXPECT_EQ(outcome.text.find('e'), std::string::npos);
  ExpectIdle();
}

TEST_F(NodeTest, SlowReaderPausesItselfOnly) {
  Start([](v1::Config* config) { config->mutable_limits()->set_stream_buffer_bytes(64 << 10); });
  v1::GenerateRequest request = Request("Once", 900);
  request.mutable_output()->set_logprobs(100);  // about 1.3 KB per token
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, request);
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  // A stream that runs no more although its call is open is paused or finished.
  ASSERT_TRUE(WaitFor([&] {
    const v1::GetLoadResponse load = Load();
    return load.generated_tokens() > 0 && load.running() == 0 && load.calls() == 1;
  }));
  EXPECT_LT(Load().generated_tokens(), 900);
  StreamClient other(stub_.get(), Request("Two", 50));
  EXPECT_EQ(other.Wait().num_tokens, 50);
  int64_t num_tokens = 0;
  while (reader->Read(&message)) num_tokens += message.output().token_ids_size();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(num_tokens, 900);
  ExpectIdle();
}

TEST_F(NodeTest, CancelWhilePaused) {
  Start([](v1::Config* config) { config->mutable_limits()->set_stream_buffer_bytes(1024); });
  v1::GenerateRequest request = Request("Once", 900);
  request.mutable_output()->set_logprobs(100);
  grpc::ClientContext context;
  const auto reader = stub_->Generate(&context, request);
  ASSERT_TRUE(WaitFor([&] { return Load().paused() == 1; }));
  EXPECT_EQ(Load().waiting(), 0);
  context.TryCancel();
  v1::GenerateResponse message;
  while (reader->Read(&message)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  ExpectIdle();
  EXPECT_EQ(Load().paused(), 0);
}

TEST_F(NodeTest, DeadlineInQueueAndInMidStream) {
  Start([](v1::Config* config) {
    config->mutable_engine()->set_max_num_seqs(1);
    config->mutable_limits()->set_stream_buffer_bytes(1024);
  });
  // Reads the first message, waits until the deadline has passed, and reads the rest. The stream
  // pauses meanwhile, so it cannot end before the deadline. Returns the number of tokens.
  const auto run = [&](const std::string& text, int64_t deadline_ms) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(deadline_ms));
    v1::GenerateRequest request = Request(text, 900);
    request.mutable_output()->set_logprobs(100);  // about 1.3 KB per token
    const auto reader = stub_->Generate(&context, request);
    v1::GenerateResponse message;
    int64_t num_tokens = 0;
    while (reader->Read(&message) && !message.has_output()) {
    }
    num_tokens += message.output().token_ids_size();
    EXPECT_TRUE(WaitFor([&] { return std::chrono::system_clock::now() > context.deadline(); }));
    while (reader->Read(&message)) num_tokens += message.output().token_ids_size();
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
    return num_tokens;
  };
  // A busy machine may need more time for the first token.
  int64_t num_tokens = 0;
  for (int64_t deadline_ms = 100; num_tokens == 0 && deadline_ms < 30'000; deadline_ms *= 2) {
    num_tokens = run("Once", deadline_ms);
  }
  EXPECT_GT(num_tokens, 0);
  EXPECT_LT(num_tokens, 900);
  ExpectIdle();
  StreamClient blocker(stub_.get(), Request("One", 900));
  ASSERT_TRUE(WaitFor([&] { return blocker.num_tokens() > 0; }));
  EXPECT_EQ(run("Two", 20), 0);
  blocker.Cancel();
  blocker.Wait();
  ExpectIdle();
}

TEST_F(NodeTest, TimeLimitEndsWithWhatThereIs) {
  Start();
  v1::GenerateRequest request = Request("Once", 1000);
  request.mutable_sampling()->set_n(64);
  request.mutable_sampling()->set_temperature(1);
  request.mutable_stopping()->set_time_limit_ms(100);
  const Outcome outcome = StreamClient(stub_.get(), request).Wait();
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
  EXPECT_EQ(outcome.num_finished, 64);
  EXPECT_EQ(outcome.reason, v1::FINISH_REASON_TIME_LIMIT);
  ExpectIdle();
}

TEST_F(NodeTest, Disconnect) {
  Start();
  std::vector<std::unique_ptr<StreamClient>> streams;
  {
    const auto stub = v1::Inference::NewStub(NewChannel());
    for (int i = 0; i < 10; ++i) {
      streams.push_back(std::make_unique<StreamClient>(stub.get(), Request("Once", 900)));
    }
    ASSERT_TRUE(WaitFor([&] { return streams.back()->num_tokens() > 0; }));
    for (const auto& stream : streams) stream->Cancel();
  }
  for (const auto& stream : streams) stream->Wait();
  ExpectIdle();
}

TEST_F(NodeTest, ControlCancelFreesTheSequence) {
  Start();
  v1::GenerateRequest request = Request("Once", 900);
  request.set_request_id("victim");
  StreamClient stream(stub_.get(), request);
  ASSERT_TRUE(WaitFor([&] { return stream.num_tokens() > 0; }));
  grpc::ClientContext context;
  v1::CancelRequest cancel;
  cancel.set_request_id("victim");
  v1::CancelResponse response;
  ASSERT_TRUE(control_->Cancel(&context, cancel, &response).ok());
  EXPECT_TRUE(response.found());
  const Outcome outcome = stream.Wait();
  EXPECT_TRUE(outcome.status.ok());
  EXPECT_EQ(outcome.num_finished, 1);
  EXPECT_EQ(outcome.reason, v1::FINISH_REASON_CANCELLED);
  ExpectIdle();
}

TEST_F(NodeTest, DrainUnderLoad) {
  Start();
  std::vector<std::unique_ptr<StreamClient>> streams;
  for (int i = 0; i < 30; ++i) {
    streams.push_back(
        std::make_unique<StreamClient>(stub_.get(), Request(absl::StrCat("Number ", i), 100)));
  }
  ASSERT_TRUE(WaitFor([&] { return node_->num_open_calls() == 30; }));
  ASSERT_TRUE(WaitFor([&] { return Load().running() + Load().waiting() == 30; }));
  node_->BeginDrain();
  const Outcome refused = StreamClient(stub_.get(), Request("late", 5)).Wait();
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  for (const auto& stream : streams) {
    const Outcome outcome = stream->Wait();
    EXPECT_TRUE(outcome.status.ok()) << outcome.status.error_message();
    EXPECT_EQ(outcome.num_tokens, 100);
  }
  EXPECT_TRUE(WaitFor([&] { return node_->num_open_calls() == 0; }));
}

TEST_F(NodeTest, CancelAllUnderLoad) {
  Start();
  std::vector<std::unique_ptr<StreamClient>> streams;
  for (int i = 0; i < 30; ++i) {
    streams.push_back(
        std::make_unique<StreamClient>(stub_.get(), Request(absl::StrCat("Number ", i), 900)));
  }
  ASSERT_TRUE(WaitFor([&] { return Load().running() + Load().waiting() == 30; }));
  node_->BeginDrain();
  node_->CancelAll();
  for (const auto& stream : streams) {
    const Outcome outcome = stream->Wait();
    EXPECT_TRUE(outcome.status.ok()) << outcome.status.error_message();
    EXPECT_EQ(outcome.num_finished, 1);
    EXPECT_EQ(outcome.reason, v1::FINISH_REASON_CANCELLED);
  }
}

TEST_F(NodeTest, AThousandStreams) {
  // A slow machine would refuse some of them.
  Start([](v1::Config* config) { config->mutable_engine()->set_max_queue_delay_ms(0); });
  RunAThousandStreams();  // starts the threads that gRPC's pools keep
  const int64_t threads_before = CountThreads();
  RunAThousandStreams();
  ExpectIdle();
  EXPECT_TRUE(WaitFor([&] { return CountThreads() <= threads_before + 4; }))
      << CountThreads() << " threads, before " << threads_before;
}

void NodeTest::RunAThousandStreams() {
  std::vector<std::unique_ptr<v1::Inference::Stub>> stubs;
  for (int i = 0; i < 10; ++i) stubs.push_back(v1::Inference::NewStub(NewChannel()));
  constexpr int kStreams = 1000;
  std::vector<std::unique_ptr<StreamClient>> streams;
  for (int i = 0; i < kStreams; ++i) {
    streams.push_back(std::make_unique<StreamClient>(stubs[static_cast<size_t>(i % 10)].get(),
                                                     Request(absl::StrCat("Story ", i % 7), 12)));
  }
  std::map<int, std::string> texts;
  for (int i = 0; i < kStreams; ++i) {
    const Outcome outcome = streams[static_cast<size_t>(i)]->Wait();
    ASSERT_TRUE(outcome.status.ok()) << outcome.status.error_message();
    EXPECT_EQ(outcome.num_tokens, 12);
    EXPECT_EQ(outcome.num_finished, 1);
    const auto [it, is_new] = texts.emplace(i % 7, outcome.text);
    if (!is_new) {
      EXPECT_EQ(outcome.text, it->second);
    }
  }
}

TEST_F(NodeTest, ThreadsAreBackAfterShutdown) {
  Start();
  StreamClient(stub_.get(), Request("warm", 2)).Wait();
  Stop();
  const int64_t threads_before = CountThreads();
  for (int i = 0; i < 2; ++i) {
    Start();
    StreamClient(stub_.get(), Request("again", 2)).Wait();
    Stop();
  }
  EXPECT_TRUE(WaitFor([&] { return CountThreads() <= threads_before + 2; }))
      << CountThreads() << " threads, before " << threads_before;
}

TEST_F(NodeTest, InputsThatNeverFitTheQueueAreRefusedForGood) {
  Start([](v1::Config* config) { config->mutable_engine()->set_max_queue(3); });
  v1::EmbedRequest request;
  v1::EmbedResponse response;
  for (int i = 0; i < 4; ++i) request.add_inputs()->set_text("a cat");
  grpc::ClientContext refused;
  const grpc::Status status = stub_->Embed(&refused, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << status.error_message();
  EXPECT_EQ(status.error_message(),
            "inputs has 4 entries; give 1 to 3, which is all that this server's queue holds "
            "(engine.max_queue)");
  request.mutable_inputs()->RemoveLast();
  grpc::ClientContext served;
  EXPECT_TRUE(stub_->Embed(&served, request, &response).ok());
  v1::GetCapabilitiesResponse capabilities;
  grpc::ClientContext context;
  ASSERT_TRUE(control_->GetCapabilities(&context, {}, &capabilities).ok());
  EXPECT_EQ(capabilities.limits().max_embed_inputs(), 3);
  ExpectIdle();
}

TEST_F(NodeTest, TheTimeOfChatTemplatesIsConfigured) {
  v1::TokenizeRequest request;
  for (int i = 0; i < 1500; ++i) {
    v1::ChatMessage* message = request.mutable_chat()->add_messages();
    message->set_role("user");
    message->set_content("a");
  }
  const auto tokenize = [&] {
    grpc::ClientContext context;
    v1::TokenizeResponse response;
    return stub_->Tokenize(&context, request, &response);
  };
  Start();
  EXPECT_TRUE(tokenize().ok());
  Stop();
  Start([](v1::Config* config) { config->mutable_limits()->set_template_time_ms(1); });
  const grpc::Status refused = tokenize();
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_NE(refused.error_message().find("more than 1 ms of processor time"), std::string::npos)
      << refused.error_message();
}

// The limit on open calls follows the size of the queue, so that it never refuses a call that the
// queue would accept.
// The context is what the page pool holds, and an embedding may fill all of it.
TEST_F(NodeTest, AnEmbeddingFillsTheContextAndThePool) {
  Start([](v1::Config* config) { config->mutable_engine()->set_kv_cache_bytes(1 << 20); });
  grpc::ClientContext models_context;
  v1::ListModelsResponse models;
  ASSERT_TRUE(control_->ListModels(&models_context, {}, &models).ok());
  const int64_t context_length = models.models(0).max_model_len();
  ASSERT_LT(context_length, 4096);
  v1::EmbedRequest request;
  v1::TokenIds* ids = request.add_inputs()->mutable_token_ids();
  for (int64_t i = 0; i < context_length; ++i) ids->add_ids(static_cast<int32_t>(100 + i % 800));
  grpc::ClientContext context;
  v1::EmbedResponse response;
  const grpc::Status status = stub_->Embed(&context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.usage().prompt_tokens(), context_length);
  EXPECT_GT(response.embeddings(0).values_size(), 0);
  ExpectIdle();
}

TEST_F(NodeTest, AStopStringThatIsASpecialTokenEndsGeneration) {
  Start();
  v1::GenerateRequest request = Request("Once upon a time", 5);
  request.mutable_stopping()->add_stop("<|im_start|>");
  (*request.mutable_sampling()->mutable_logit_bias())[1] = 1000;  // the id of <|im_start|>
  const Outcome outcome = StreamClient(stub_.get(), request).Wait();
  EXPECT_EQ(outcome.num_tokens, 1);
  EXPECT_EQ(outcome.reason, v1::FINISH_REASON_STOP);
  EXPECT_EQ(outcome.text, "");
  // The id is not sampled in the first min_tokens tokens, even if the bias demands it.
  request.mutable_stopping()->set_min_tokens(3);
  const Outcome later = StreamClient(stub_.get(), request).Wait();
  EXPECT_EQ(later.num_tokens, 4);
  EXPECT_EQ(later.reason, v1::FINISH_REASON_STOP);
}

TEST_F(NodeTest, ALongQueueMayBeFull) {
  if (testing::kAddressSanitizer) {
    GTEST_SKIP() << "4,400 streams take minutes under the address sanitizer";
  }
  Start([](v1::Config* config) {
    config->mutable_engine()->set_max_queue(6000);
    config->mutable_engine()->set_max_queue_delay_ms(0);
    config->mutable_engine()->set_max_num_seqs(1);  // so that few streams end during the test
  });
  StreamClient(stub_.get(), Request("warm", 2)).Wait();
  constexpr int kCalls = 4400;  // more than the server keeps open with the default queue
  std::vector<std::unique_ptr<v1::Inference::Stub>> stubs;
  for (int i = 0; i < 50; ++i) stubs.push_back(v1::Inference::NewStub(NewChannel()));
  std::vector<std::unique_ptr<StreamClient>> streams;
  for (int i = 0; i < kCalls; ++i) {
    streams.push_back(std::make_unique<StreamClient>(stubs[static_cast<size_t>(i % 50)].get(),
                                                     Request("Once", 1000)));
  }
  EXPECT_TRUE(WaitFor([&] { return Load().waiting() > 4200; }, 60'000)) << Load().waiting();
  for (const auto& stream : streams) stream->Cancel();
  for (const auto& stream : streams) {
    EXPECT_NE(stream->Wait().status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  }
  ExpectIdle();
}

TEST_F(NodeTest, EmbeddingsAreNormalisedAndExact) {
  Start();
  v1::EmbedRequest request;
  for (const char* text : {"a cat", "a dog", "a cat"}) request.add_inputs()->set_text(text);
  grpc::ClientContext context;
  v1::EmbedResponse response;
  ASSERT_TRUE(stub_->Embed(&context, request, &response).ok());
  ASSERT_EQ(response.embeddings_size(), 3);
  double square = 0;
  for (const float value : response.embeddings(0).values()) square += double{value} * value;
  EXPECT_NEAR(square, 1.0, 1e-4);
  EXPECT_EQ(response.embeddings(0).SerializeAsString(), response.embeddings(2).SerializeAsString());
  EXPECT_NE(response.embeddings(0).SerializeAsString(), response.embeddings(1).SerializeAsString());
  ExpectIdle();
}

}  // namespace
}  // namespace tessera
