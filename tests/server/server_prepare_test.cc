// Tests of the preparation of requests, without sockets: total counts are bounded, decoded text is
// bounded while it grows, and errors name the field.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "scheduler/residency/adapters/adapter_registry.h"
#include "server/call/limits.h"
#include "server/call/live_calls.h"
#include "server/call/prepare.h"
#include "server/call/wire_check.h"
#include "tessera/v1/inference.pb.h"
#include "tests/lib/any_files.h"
#include "tests/lib/sanitizers.h"
#include "tests/server/fake_models.h"

namespace tessera::testing {
namespace {

template <class Wire>
Wire WithAdapters(const std::vector<std::string>& names) {
  Wire wire;
  for (const std::string& name : names) wire.add_adapters()->set_name(name);
  return wire;
}

int64_t ResidentBytes() {
  int64_t pages = 0;
  std::ifstream statm("/proc/self/statm");
  statm >> pages >> pages;
  return pages * sysconf(_SC_PAGESIZE);
}

class PrepareTest : public ::testing::Test {
 protected:
  PrepareTest() : registry_(FakeModels()) {}

  PreparedCall Run(Method method, const std::string& bytes) {
    return Prepare(method, bytes, 1, registry_, &adapters_, &live_);
  }
  // Expects INVALID_ARGUMENT that names `field` in its message and in google.rpc.BadRequest.
  static void ExpectBlames(const absl::Status& status, const std::string& field,
                           const std::string& part) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_EQ(status.message().rfind(field, 0), 0u) << status;
    EXPECT_NE(status.message().find(part), std::string::npos) << status;
    google::rpc::BadRequest bad;
    const auto payload = status.GetPayload("type.googleapis.com/google.rpc.BadRequest");
    ASSERT_TRUE(payload && bad.ParseFromString(std::string(*payload))) << status;
    EXPECT_EQ(bad.field_violations(0).field(), field);
  }
  // The bytes of a packed list of `count` ids.
  static std::string Ids(int64_t count, int32_t id) {
    v1::DetokenizeRequest request;
    request.mutable_token_ids()->Resize(static_cast<int>(count), id);
    return request.SerializeAsString();
  }

  ModelRegistry registry_;
  AdapterRegistry adapters_{{{"model", {}}}, AnyFiles()};
  LiveCalls live_;
};

TEST_F(PrepareTest, PackedChunksAreCountedTogether) {
  // Protobuf joins the chunks of a list, so their numbers are counted together.
  const std::string chunk = Ids(1'500'000, 1);
  EXPECT_TRUE(CheckWire(*v1::DetokenizeRequest::descriptor(), chunk + chunk).ok());
  ExpectBlames(CheckWire(*v1::DetokenizeRequest::descriptor(), chunk + chunk + chunk), "token_ids",
               "more than 4259840 values");
  // The numbers of all lists of a request are counted together.
  v1::GenerateRequest generate;
  generate.mutable_token_ids()->mutable_ids()->Resize(3'000'000, 1);
  generate.mutable_stopping()->mutable_stop_token_ids()->Resize(3'000'000, 1);
  ExpectBlames(CheckWire(*v1::GenerateRequest::descriptor(), generate.SerializeAsString()),
               "stopping.stop_token_ids", "more than");
}

// An empty string takes two bytes on the wire and dozens of bytes in memory.
TEST_F(PrepareTest, StringsAreCounted) {
  v1::GenerateRequest request;
  request.set_text("abc");
  const std::string head = request.SerializeAsString();
  v1::StoppingParams stopping;
  const auto with_stops = [&](int64_t count) {
    while (stopping.stop_size() < count) stopping.add_stop("");
    v1::GenerateRequest tail;
    *tail.mutable_stopping() = stopping;
    return CheckWire(*v1::GenerateRequest::descriptor(), head + tail.SerializeAsString());
  };
  // The limit includes `text` and the sub-message `stopping`.
  EXPECT_TRUE(with_stops(kMaxWireItems - 2).ok());
  ExpectBlames(with_stops(kMaxWireItems - 1), "stopping.stop", "more than 262144 values");
}

TEST_F(PrepareTest, PartsShareTheBoundOnText) {
  std::vector<ServedModel> models = FakeModels();
  for (ServedModel& model : models) model.max_prompt_bytes = 100;
  const ModelRegistry registry(std::move(models));
  const auto run = [&](int num_parts, int64_t bytes_each) {
    v1::GenerateRequest request;
    for (int i = 0; i < num_parts; ++i) {
      request.mutable_parts()->add_parts()->set_text(
          std::string(static_cast<size_t>(bytes_each), 'x'));
    }
    return Prepare(Method::kGenerate, request.SerializeAsString(), 1, registry, &adapters_, &live_);
  };
  EXPECT_TRUE(run(10, 10).status.ok());
  ExpectBlames(run(11, 10).status, "parts", "has 110 bytes of text");
}

TEST_F(PrepareTest, ASlowRenderingIsStoppedAndKeepsItsRequestId) {
  std::vector<ServedModel> models = FakeModels();
  models[0].chat_templates = TemplatesOf(kEndlessTemplate);
  models[0].template_time = absl::Milliseconds(30);
  const ModelRegistry registry(std::move(models));
  v1::ChatRequest chat;
  chat.set_request_id("mine");
  chat.add_messages()->set_role("user");
  PrepareOptions options;
  options.render_time = absl::Milliseconds(1);
  const PreparedCall first =
      Prepare(Method::kChat, chat.SerializeAsString(), 1, registry, &adapters_, &live_, options);
  EXPECT_TRUE(first.needs_time);
  EXPECT_FALSE(first.status.ok());
  EXPECT_EQ(first.request_id, "mine");
  EXPECT_EQ(live_.Find("mine"), std::vector<uint64_t>{1});
  // The second attempt has the model's time.
  PrepareOptions patient;
  patient.request_id = first.request_id;
  const PreparedCall second =
      Prepare(Method::kChat, chat.SerializeAsString(), 1, registry, &adapters_, &live_, patient);
  EXPECT_FALSE(second.needs_time);
  EXPECT_EQ(second.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(second.status.message().find("more than 30 ms of processor time"), std::string::npos)
      << second.status;
  EXPECT_EQ(second.request_id, "mine");
}

TEST_F(PrepareTest, ErrorsOfTheChatTemplateSayWhatIsWrong) {
  std::vector<ServedModel> models = FakeModels();
  models[0].chat_templates = TemplatesOf("a\n{% if %}");
  const ModelRegistry registry(std::move(models));
  v1::ChatRequest chat;
  chat.add_messages()->set_role("user");
  const absl::Status status =
      Prepare(Method::kChat, chat.SerializeAsString(), 1, registry, &adapters_, &live_).status;
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message().rfind("model 'bytes' has a chat template 'default' that cannot be "
                                   "used: chat template: line 2: ",
                                   0),
            0u)
      << status;
}

TEST_F(PrepareTest, ToolArgumentsAreParsedOnRequest) {
  std::vector<ServedModel> models = FakeModels();
  models[0].chat_templates =
      TemplatesOf("{{ messages[0].tool_calls[0].function.arguments | tojson }}");
  const ModelRegistry registry(std::move(models));
  v1::TokenizeRequest request;
  v1::ChatMessage* message = request.mutable_chat()->add_messages();
  message->set_role("assistant");
  message->set_tool_calls_json(R"([{"function": {"name": "f", "arguments": "{\"a\": 1}"}}])");
  const auto text = [&] {
    const PreparedCall call =
        Prepare(Method::kTokenize, request.SerializeAsString(), 1, registry, &adapters_, &live_);
    EXPECT_TRUE(call.status.ok()) << call.status;
    return static_cast<const v1::TokenizeResponse&>(*call.reply).text();
  };
  EXPECT_EQ(text(), R"("{\"a\": 1}")");
  message->set_parse_tool_arguments(true);
  EXPECT_EQ(text(), R"({"a": 1})");
}

TEST_F(PrepareTest, EmbedPassesOnItsAdapterAndPriority) {
  const std::string dir = MakeTempDir("embed_adapter");
  std::ofstream(dir + "/adapter_config.json") << "{}";
  std::ofstream(dir + "/adapter_model.safetensors") << "";
  ASSERT_TRUE(adapters_.Register({{"red", "", 0, dir}}).ok());
  v1::EmbedRequest request;
  request.add_inputs()->set_text("abc");
  request.add_inputs()->set_text("d");
  const PreparedCall plain = Run(Method::kEmbed, request.SerializeAsString());
  ASSERT_TRUE(plain.status.ok()) << plain.status;
  request.set_model("red");
  request.set_priority(v1::PRIORITY_HIGH);
  const PreparedCall adapted = Run(Method::kEmbed, request.SerializeAsString());
  ASSERT_TRUE(adapted.status.ok()) << adapted.status;
  ASSERT_EQ(adapted.requests.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(plain.requests[i]->adapter.id, kNoAdapter);
    EXPECT_EQ(plain.requests[i]->priority, Priority::kNormal);
    EXPECT_NE(adapted.requests[i]->adapter.id, kNoAdapter);
    EXPECT_FALSE(adapted.requests[i]->adapter.key.empty());
    EXPECT_EQ(adapted.requests[i]->priority, Priority::kHigh);
  }
  std::filesystem::remove_all(dir);
}

// A request is refused before the blend that it names is registered, whatever is wrong with it.
TEST_F(PrepareTest, RefusedRequestsRegisterNoBlend) {
  const std::string dir = MakeTempDir("refused_blend");
  std::ofstream(dir + "/adapter_config.json") << "{}";
  std::ofstream(dir + "/adapter_model.safetensors") << "";
  ASSERT_TRUE(adapters_.Register({{"red", "", 0, dir}}).ok());
  const auto with = [](const std::function<void(v1::GenerateRequest*)>& change) {
    v1::GenerateRequest request;
    request.set_text("abc");
    v1::AdapterRef* const ref = request.add_adapters();
    ref->set_name("red");
    ref->set_weight(0.5f);
    change(&request);
    return request.SerializeAsString();
  };
  const std::vector<std::function<void(v1::GenerateRequest*)>> mistakes = {
      [](auto* r) { r->mutable_sampling()->set_temperature(-1.0f); },
      [](auto* r) { r->mutable_stopping()->add_stop(""); },
      [](auto* r) { r->mutable_cache()->set_salt(std::string(10'000, 's')); },
      [](auto* r) { r->mutable_output()->set_logprobs(1'000'000); },
      [](auto* r) { r->clear_prompt(); },
      [](auto* r) { r->mutable_token_ids()->add_ids(-1); },
      [](auto* r) { r->set_text(std::string(100'000, 'x')); },
      [](auto* r) { r->set_blend_rank(0); },
  };
  for (size_t i = 0; i < mistakes.size(); ++i) {
    const PreparedCall refused = Run(Method::kGenerate, with(mistakes[i]));
    EXPECT_FALSE(refused.status.ok()) << i;
  }
  const PreparedCall taken = Run(Method::kGenerate, with([](auto*) {}));
  ASSERT_TRUE(taken.status.ok()) << taken.status;
  EXPECT_EQ(taken.requests[0]->adapter.id, 0) << "ids count what was registered since the start";
  std::filesystem::remove_all(dir);
}

// Requests that are refused after their preparation, by a full queue, drop their blends.
TEST_F(PrepareTest, FreshBlendsLeaveNothingWhenTheirRequestsAreRefused) {
  const std::string dir = MakeTempDir("fresh_blends");
  std::ofstream(dir + "/adapter_config.json") << "{}";
  std::ofstream(dir + "/adapter_model.safetensors") << "";
  ASSERT_TRUE(adapters_.Register({{"red", "", 0, dir}}).ok());
  auto request = WithAdapters<v1::GenerateRequest>({"red", "red"});
  request.set_text("abc");
  constexpr int kNumRequests = kSanitized ? 10'000 : 30'000;
  const int64_t before = ResidentBytes();
  for (int i = 0; i < kNumRequests; ++i) {
    request.mutable_adapters(0)->set_weight(static_cast<float>(i) / 1000.0f);
    const PreparedCall call = Run(Method::kGenerate, request.SerializeAsString());
    ASSERT_TRUE(call.status.ok()) << call.status;
    ASSERT_EQ(call.requests[0]->adapter.id, i);
    live_.Unregister("", call.request_id, 1);
  }
  EXPECT_EQ(adapters_.num_versions(), 0);
  if (!kSanitized) {
    EXPECT_LT(ResidentBytes() - before, 64 << 20);
  }
  std::filesystem::remove_all(dir);
}

TEST_F(PrepareTest, TheEngineLearnsWhatTheClientCallsItsRequests) {
  v1::GenerateRequest generate;
  generate.set_text("hello");
  generate.set_request_id("mine");
  const PreparedCall named = Run(Method::kGenerate, generate.SerializeAsString());
  ASSERT_TRUE(named.status.ok()) << named.status;
  EXPECT_EQ(named.requests.at(0)->name, "mine");
  generate.clear_request_id();
  const PreparedCall unnamed = Run(Method::kGenerate, generate.SerializeAsString());
  ASSERT_TRUE(unnamed.status.ok()) << unnamed.status;
  EXPECT_EQ(unnamed.requests.at(0)->name, unnamed.request_id);
  EXPECT_EQ(unnamed.request_id.rfind("req-", 0), 0u);
  v1::EmbedRequest embed;
  embed.set_request_id("both");
  for (const char* text : {"one", "two"}) embed.add_inputs()->set_text(text);
  const PreparedCall inputs = Run(Method::kEmbed, embed.SerializeAsString());
  ASSERT_TRUE(inputs.status.ok()) << inputs.status;
  ASSERT_EQ(inputs.requests.size(), 2u);
  for (const auto& request : inputs.requests) EXPECT_EQ(request->name, "both");
}

TEST_F(PrepareTest, ChatAndTokenizeTakeTheSameOptions) {
  v1::ChatRequest chat;
  chat.add_messages()->set_role("user");
  chat.mutable_messages(0)->set_content("a</s>");
  chat.add_messages()->set_role("assistant");
  chat.mutable_messages(1)->set_content("b");
  chat.set_plain_content(true);
  chat.set_continue_final_message(true);
  v1::TokenizeRequest tokenize;
  *tokenize.mutable_chat()->mutable_messages() = chat.messages();
  tokenize.mutable_chat()->set_plain_content(true);
  tokenize.mutable_chat()->set_continue_final_message(true);
  const PreparedCall call = Run(Method::kChat, chat.SerializeAsString());
  ASSERT_TRUE(call.status.ok()) << call.status;
  const PreparedCall tokenized = Run(Method::kTokenize, tokenize.SerializeAsString());
  ASSERT_TRUE(tokenized.status.ok()) << tokenized.status;
  const auto& reply = static_cast<const v1::TokenizeResponse&>(*tokenized.reply);
  const std::string text = "[user]a</s>[assistant]b";
  EXPECT_EQ(reply.text(), "<s>" + text);
  std::vector<TokenId> ids = {kFakeBos};
  ids.insert(ids.end(), text.begin(), text.end());
  EXPECT_EQ(call.requests.at(0)->prompt, ids);
  EXPECT_EQ(std::vector<TokenId>(reply.token_ids().begin(), reply.token_ids().end()), ids);
  chat.set_add_generation_prompt(true);
  ExpectBlames(Run(Method::kChat, chat.SerializeAsString()).status, "continue_final_message",
               "add_generation_prompt");
}

TEST_F(PrepareTest, DetokenizeTakesAsManyIdsAsItSays) {
  v1::DetokenizeRequest request;
  request.set_skip_special_tokens(true);
  const std::string most = Ids(kMaxDetokenizeIds, 'x') + request.SerializeAsString();
  const PreparedCall served = Run(Method::kDetokenize, most);
  ASSERT_TRUE(served.status.ok()) << served.status;
  EXPECT_EQ(static_cast<const v1::DetokenizeResponse&>(*served.reply).text().size(),
            static_cast<size_t>(kMaxDetokenizeIds));
  ExpectBlames(Run(Method::kDetokenize, most + Ids(1, 'x')).status, "token_ids",
               "has 4194305 ids; give at most 4194304");
}

TEST_F(PrepareTest, DetokenizedTextIsBounded) {
  const int64_t fit = kMaxDetokenizedBytes / kFakeLongBytes;
  EXPECT_TRUE(Run(Method::kDetokenize, Ids(fit, kFakeLong)).status.ok());
  ExpectBlames(Run(Method::kDetokenize, Ids(fit + 1, kFakeLong)).status, "token_ids",
               absl::StrCat("send at most the first ", fit, " of them"));
}

TEST_F(PrepareTest, BlendRankIsChecked) {
  const std::string dir = MakeTempDir("blend_rank");
  std::ofstream(dir + "/adapter_config.json") << "{}";
  std::ofstream(dir + "/adapter_model.safetensors") << "";
  ASSERT_TRUE(adapters_.Register({{"red", "", 0, dir}, {"blue", "", 0, dir}}).ok());
  auto generate = WithAdapters<v1::GenerateRequest>({"red", "blue"});
  generate.set_text("abc");
  auto chat = WithAdapters<v1::ChatRequest>({"red", "blue"});
  chat.add_messages()->set_role("user");
  chat.mutable_messages(0)->set_content("abc");
  const auto run = [&](std::optional<uint32_t> rank, Method method) {
    if (rank.has_value()) {
      generate.set_blend_rank(*rank);
      chat.set_blend_rank(*rank);
    }
    return Run(method,
               method == Method::kChat ? chat.SerializeAsString() : generate.SerializeAsString());
  };
  for (const Method method : {Method::kGenerate, Method::kChat}) {
    generate.clear_blend_rank();
    chat.clear_blend_rank();
    std::vector<std::string> keys;
    for (const std::optional<uint32_t> rank : {std::optional<uint32_t>(), {1u}, {4096u}}) {
      const PreparedCall call = run(rank, method);
      ASSERT_TRUE(call.status.ok()) << call.status;
      keys.push_back(call.requests[0]->adapter.key);
    }
    EXPECT_NE(keys[0], keys[1]);
    EXPECT_NE(keys[1], keys[2]);
    ExpectBlames(run(0, method).status, "blend_rank", "give 1 to 4096");
    ExpectBlames(run(4097, method).status, "blend_rank", "is 4097");
    ExpectBlames(run(0xffffffffu, method).status, "blend_rank", "give 1 to 4096");
  }
  generate.clear_adapters();
  ExpectBlames(run(8, Method::kGenerate).status, "blend_rank", "without adapters");
  generate.set_model("red");  // an adapter, which is exact
  ExpectBlames(run(8, Method::kGenerate).status, "blend_rank", "without adapters");
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace tessera::testing
