#include "tests/server/server_fixture.h"

#include <chrono>
#include <thread>

#include "absl/strings/str_cat.h"
#include "server/text/tokenizer/utf8.h"

namespace tessera::testing {

StreamResult ReadAll(std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader) {
  StreamResult result;
  v1::GenerateResponse message;
  while (reader->Read(&message)) result.messages.push_back(message);
  result.status = reader->Finish();
  return result;
}

std::string StreamResult::Text(int index) const {
  std::string text;
  for (const v1::GenerateResponse& message : messages) {
    if (message.index() == index && message.has_output()) text += message.output().text();
  }
  return text;
}

std::vector<int> StreamResult::Ids(int index) const {
  std::vector<int> ids;
  for (const v1::GenerateResponse& message : messages) {
    if (message.index() != index) continue;
    for (const int id : message.output().token_ids()) ids.push_back(id);
  }
  return ids;
}

const v1::GenerateResponse* StreamResult::FinishedOf(int index) const {
  for (const v1::GenerateResponse& message : messages) {
    if (message.index() == index && message.has_finished()) return &message;
  }
  return nullptr;
}

void StreamResult::ExpectWellFormed(int n) const {
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_FALSE(messages.empty());
  EXPECT_TRUE(messages[0].has_accepted());
  std::vector<int64_t> num_tokens(static_cast<size_t>(n));
  std::vector<bool> finished(static_cast<size_t>(n));
  for (size_t i = 0; i < messages.size(); ++i) {
    const v1::GenerateResponse& message = messages[i];
    EXPECT_EQ(message.request_id(), messages[0].request_id());
    EXPECT_FALSE(message.request_id().empty());
    ASSERT_GE(message.index(), 0);
    ASSERT_LT(message.index(), n);
    const auto index = static_cast<size_t>(message.index());
    EXPECT_FALSE(finished[index]) << "a message after `finished`";
    EXPECT_EQ(message.has_accepted(), i == 0);
    if (message.has_output()) {
      EXPECT_TRUE(IsValidUtf8(message.output().text()));
      EXPECT_EQ(message.output().token_offset(), num_tokens[index]);
      num_tokens[index] += message.output().token_ids_size();
    }
    if (!message.has_finished()) continue;
    finished[index] = true;
    EXPECT_EQ(message.usage().completion_tokens(), num_tokens[index]);
    EXPECT_EQ(message.usage().prompt_tokens(), messages[0].accepted().prompt_tokens());
    EXPECT_TRUE(message.has_timing());
    EXPECT_EQ(message.finished().exactness(), v1::EXACTNESS_EXACT);
  }
  for (const bool done : finished) EXPECT_TRUE(done) << "an index without `finished`";
}

void ServerTest::Start(FakeGeneratorOptions fake, ServerOptions options) {
  Stop();
  generator_ = std::make_unique<FakeGenerator>(fake);
  registry_ = std::make_unique<ModelRegistry>(FakeModels());
  context_ = std::make_unique<ServingContext>();
  context_->generator = generator_.get();
  context_->models = registry_.get();
  std::vector<AdapterModel> adapter_models;
  for (const ServedModel& model : registry_->models()) adapter_models.push_back({model.name, {}});
  adapters_ = std::make_unique<AdapterRegistry>(std::move(adapter_models), adapter_options_);
  adapter_verbs_.clear();
  context_->adapters = adapters_.get();
  context_->adapter_verbs = {[this](AdapterId id, bool pin, AdapterWait wait) {
                               adapter_verbs_.emplace_back(id, pin ? "pin" : "load");
                               if (!holds_loads_) return wait.done(absl::OkStatus());
                               held_load_.set_value(std::move(wait));
                             },
                             [this](AdapterId id) { adapter_verbs_.emplace_back(id, "unpin"); },
                             [this](AdapterId id, bool unpin) {
                               adapter_verbs_.emplace_back(id, unpin ? "unpin, unload" : "unload");
                             }};
  context_->clock = &clock_;
  context_->version = "test";
  context_->device = "none";
  context_->load = [this] {
    LoadSnapshot load;
    load.running = generator_->num_live();
    load.waiting = 2;
    load.paused = 3;
    load.queue_delay_us = 1'500'000;
    load.pool_bytes = 100;
    load.kv_bytes = 25;
    load.free_bytes = 75;
    return load;
  };
  if (options.listen == ServerOptions().listen) options.listen = "127.0.0.1:0";
  auto server = StartServer(options, context_.get());
  ASSERT_TRUE(server.ok()) << server.status();
  server_ = *std::move(server);
  stub_ = v1::Inference::NewStub(NewChannel());
  control_ = v1::Control::NewStub(NewChannel());
}

void ServerTest::Stop() {
  stub_.reset();
  control_.reset();
  server_.reset();
  generator_.reset();
}

std::unique_ptr<grpc::ClientContext> ServerTest::NewContext(int64_t deadline_ms) const {
  auto context = std::make_unique<grpc::ClientContext>();
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(deadline_ms));
  return context;
}

grpc::ChannelArguments ServerTest::ChannelArguments() {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // each channel has its own connection
  // The flow-control window does not grow, so a client that does not read blocks its stream after
  // 64 KiB.
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 64 << 10);
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  return arguments;
}

std::shared_ptr<grpc::Channel> ServerTest::NewChannel() const {
  return grpc::CreateCustomChannel(server_->address(), grpc::InsecureChannelCredentials(),
                                   ChannelArguments());
}

StreamResult ServerTest::Generate(const v1::GenerateRequest& request, int64_t deadline_ms) {
  const auto context = NewContext(deadline_ms);
  return ReadAll(stub_->Generate(context.get(), request));
}

StreamResult ServerTest::Chat(const v1::ChatRequest& request) {
  const auto context = NewContext();
  return ReadAll(stub_->Chat(context.get(), request));
}

v1::GenerateRequest ServerTest::TextRequest(const std::string& text, int64_t max_tokens) {
  v1::GenerateRequest request;
  request.set_text(text);
  request.mutable_stopping()->set_max_tokens(max_tokens);
  return request;
}

void ServerTest::WaitFor(const char* what, const std::function<bool()>& condition) {
  for (int i = 0; i < 60'000; ++i) {
    if (condition()) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ADD_FAILURE() << "waited in vain: " << what;
}

ErrorFacts FactsOf(const grpc::Status& status) {
  ErrorFacts facts;
  google::rpc::Status details;
  EXPECT_TRUE(details.ParseFromString(status.error_details()));
  EXPECT_EQ(details.code(), static_cast<int>(status.error_code()));
  EXPECT_EQ(details.message(), status.error_message());
  for (const google::protobuf::Any& any : details.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::RetryInfo retry;
    google::rpc::BadRequest bad;
    if (any.UnpackTo(&info)) {
      facts.reason = info.reason();
      facts.domain = info.domain();
    } else if (any.UnpackTo(&retry)) {
      facts.retry_us =
          retry.retry_delay().seconds() * 1'000'000 + retry.retry_delay().nanos() / 1000;
    } else if (any.UnpackTo(&bad) && bad.field_violations_size() > 0) {
      facts.bad_field = bad.field_violations(0).field();
    }
  }
  return facts;
}

}  // namespace tessera::testing
