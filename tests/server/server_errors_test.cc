// Tests of invalid requests: each gets a status whose message says what to change, and none affects
// other requests.
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "server/call/errors.h"
#include "server/call/limits.h"
#include "server/text/tokenizer/utf8.h"
#include "tests/server/server_fixture.h"

namespace tessera::testing {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

class ErrorsTest : public ServerTest {
 protected:
  // Sends the request and expects INVALID_ARGUMENT that names `field`.
  void ExpectRefused(const v1::GenerateRequest& request, const std::string& field,
                     const std::string& message_part = "") {
    const StreamResult result = Generate(request);
    EXPECT_EQ(result.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << field;
    EXPECT_TRUE(result.messages.empty());
    const ErrorFacts facts = FactsOf(result.status);
    EXPECT_EQ(facts.bad_field, field) << result.status.error_message();
    EXPECT_EQ(facts.domain, "tessera");
    EXPECT_EQ(facts.reason, "INVALID_FIELD");
    EXPECT_NE(result.status.error_message().find(message_part), std::string::npos)
        << result.status.error_message();
  }
  void ExpectReason(const grpc::Status& status, grpc::StatusCode code, const std::string& reason,
                    const std::string& message_part) {
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    EXPECT_EQ(FactsOf(status).reason, reason);
    EXPECT_NE(status.error_message().find(message_part), std::string::npos)
        << status.error_message();
  }
  void TearDown() override {
    Generate(TextRequest("unharmed")).ExpectWellFormed();
    WaitFor("the calls to close", [&] { return server_->num_open_calls() == 0; });
    EXPECT_EQ(generator_->num_submitted(), 1);  // no invalid request reached the engine
    ServerTest::TearDown();
  }
  // Sends any bytes as the request of Generate.
  grpc::Status SendRaw(const std::string& bytes) {
    grpc::Slice slice(bytes);
    const grpc::ByteBuffer buffer(&slice, 1);
    const auto channel = NewChannel();
    grpc::internal::RpcMethod method("/tessera.v1.Inference/Generate",
                                     grpc::internal::RpcMethod::SERVER_STREAMING, channel);
    const auto context = NewContext();
    std::unique_ptr<grpc::ClientReader<grpc::ByteBuffer>> reader(
        grpc::internal::ClientReaderFactory<grpc::ByteBuffer>::Create(channel.get(), method,
                                                                      context.get(), buffer));
    grpc::ByteBuffer response;
    while (reader->Read(&response)) {
    }
    return reader->Finish();
  }
};

TEST_F(ErrorsTest, Sampling) {
  const auto with = [](const std::function<void(v1::SamplingParams*)>& change) {
    v1::GenerateRequest request = TextRequest("abc");
    change(request.mutable_sampling());
    return request;
  };
  for (const float bad : {-0.1f, 100.5f, kNaN, kInfinity, -kInfinity}) {
    ExpectRefused(with([&](auto* s) { s->set_temperature(bad); }), "sampling.temperature",
                  "from 0 to 100");
  }
  for (const float bad : {0.0f, -1.0f, 1.01f, kNaN}) {
    ExpectRefused(with([&](auto* s) { s->set_top_p(bad); }), "sampling.top_p", "above 0 to 1");
  }
  for (const float bad : {-0.5f, 1.5f, kNaN}) {
    ExpectRefused(with([&](auto* s) { s->set_min_p(bad); }), "sampling.min_p");
  }
  for (const float bad : {0.0f, -1.0f, kNaN, kInfinity}) {
    ExpectRefused(with([&](auto* s) { s->set_repetition_penalty(bad); }),
                  "sampling.repetition_penalty");
  }
  for (const float bad : {-2.5f, 2.5f, kNaN}) {
    ExpectRefused(with([&](auto* s) { s->set_presence_penalty(bad); }),
                  "sampling.presence_penalty");
    ExpectRefused(with([&](auto* s) { s->set_frequency_penalty(bad); }),
                  "sampling.frequency_penalty");
  }
  ExpectRefused(with([](auto* s) { s->set_top_k(-2); }), "sampling.top_k", "at least -1");
  for (const int bad : {0, -1, 129, 100'000, std::numeric_limits<int>::max()}) {
    ExpectRefused(with([&](auto* s) { s->set_n(bad); }), "sampling.n", "from 1 to 128");
  }
  ExpectRefused(with([](auto* s) { (*s->mutable_logit_bias())[300] = 1; }), "sampling.logit_bias",
                "ids from 0 to 299");
  ExpectRefused(with([](auto* s) { (*s->mutable_logit_bias())[-1] = 1; }), "sampling.logit_bias");
  ExpectRefused(with([](auto* s) { (*s->mutable_logit_bias())[1] = kNaN; }), "sampling.logit_bias");
  ExpectRefused(with([](auto* s) {
                  for (int i = 0; i < 1025; ++i) (*s->mutable_logit_bias())[i] = 1;
                }),
                "sampling.logit_bias", "1025 entries");
}

TEST_F(ErrorsTest, Stopping) {
  const auto with = [](const std::function<void(v1::StoppingParams*)>& change) {
    v1::GenerateRequest request = TextRequest("abc");
    change(request.mutable_stopping());
    return request;
  };
  for (const int64_t bad : {int64_t{0}, int64_t{-5}, std::numeric_limits<int64_t>::min()}) {
    ExpectRefused(with([&](auto* s) { s->set_max_tokens(bad); }), "stopping.max_tokens",
                  "at least 1");
  }
  for (const int64_t bad :
       {int64_t{0}, int64_t{-5}, kMaxTimeLimitMs + 1, std::numeric_limits<int64_t>::max()}) {
    ExpectRefused(with([&](auto* s) { s->set_time_limit_ms(bad); }), "stopping.time_limit_ms",
                  absl::StrCat("is ", bad, "; give a whole number from 1 to 31536000000"));
  }
  ExpectRefused(with([](auto* s) { s->set_min_tokens(-1); }), "stopping.min_tokens");
  ExpectRefused(with([](auto* s) { s->set_min_tokens(5); }), "stopping.min_tokens",
                "more than max_tokens (4)");
  ExpectRefused(with([](auto* s) { s->add_stop(""); }), "stopping.stop", "1 to 1024");
  ExpectRefused(with([](auto* s) { s->add_stop(std::string(1025, 'x')); }), "stopping.stop");
  ExpectRefused(with([](auto* s) {
                  for (int i = 0; i < 10'000; ++i) s->add_stop("stop");
                }),
                "stopping.stop", "10000 entries; give at most 64");
  ExpectRefused(with([](auto* s) { s->add_stop_token_ids(-1); }), "stopping.stop_token_ids");
  ExpectRefused(with([](auto* s) { s->add_stop_token_ids(300); }), "stopping.stop_token_ids");
  ExpectRefused(with([](auto* s) {
                  for (int i = 0; i < 1025; ++i) s->add_stop_token_ids(1);
                }),
                "stopping.stop_token_ids");
}

TEST_F(ErrorsTest, OutputCacheAndNames) {
  v1::GenerateRequest request = TextRequest("abc");
  request.mutable_output()->set_logprobs(101);
  ExpectRefused(request, "output.logprobs", "from 0 to 100");
  request.mutable_output()->set_logprobs(-1);
  ExpectRefused(request, "output.logprobs");
  request.clear_output();
  request.mutable_output()->set_prompt_logprobs(-1);
  ExpectRefused(request, "output.prompt_logprobs");
  request.clear_output();
  request.mutable_cache()->set_salt(std::string(257, 's'));
  ExpectRefused(request, "cache.salt");
  request.clear_cache();
  request.set_request_id(std::string(129, 'r'));
  ExpectRefused(request, "request_id");
  request.clear_request_id();
  request.set_priority(static_cast<v1::Priority>(17));
  ExpectRefused(request, "priority", "no Priority");
}

TEST_F(ErrorsTest, Prompts) {
  v1::GenerateRequest request;
  ExpectReason(Generate(request).status, grpc::StatusCode::INVALID_ARGUMENT, "EMPTY_PROMPT",
               "set text, token_ids or parts");
  request.set_text("");
  ExpectRefused(request, "text", "is empty");
  request.mutable_token_ids();
  ExpectRefused(request, "token_ids", "is empty");
  for (const int bad :
       {-1, 300, std::numeric_limits<int>::max(), std::numeric_limits<int>::min()}) {
    request.mutable_token_ids()->clear_ids();
    request.mutable_token_ids()->add_ids(1);
    request.mutable_token_ids()->add_ids(bad);
    ExpectRefused(request, "token_ids", absl::StrCat("the id ", bad, " at place 1"));
  }
  request.mutable_parts();
  ExpectRefused(request, "parts", "is empty");
  request.mutable_parts()->add_parts();
  ExpectRefused(request, "parts[0]", "no content");
  request.mutable_parts()->mutable_parts(0)->set_text("a");
  request.mutable_parts()->add_parts()->set_text("");
  ExpectRefused(request, "parts[1]", "is empty");
  request.mutable_parts()->mutable_parts(1)->set_text("b");
  request.mutable_parts()->mutable_parts(1)->set_document_id(std::string(257, 'd'));
  ExpectRefused(request, "parts[1].document_id", "has 257 bytes; give at most 256");
}

TEST_F(ErrorsTest, PromptThatFillsTheContext) {
  // The prompt is <s> and the text. A prompt that fills the context exactly is refused; a prompt
  // with one token less is served (see MaxTokensBeyondTheContext).
  ExpectReason(Generate(TextRequest(std::string(kFakeContext - 1, 'x'))).status,
               grpc::StatusCode::INVALID_ARGUMENT, "PROMPT_TOO_LONG",
               "has 4096 tokens; the context of model 'bytes' has 4096 for prompt and output");
  v1::GenerateRequest request;
  for (int i = 0; i < 5000; ++i) request.mutable_token_ids()->add_ids(1);
  ExpectReason(Generate(request).status, grpc::StatusCode::INVALID_ARGUMENT, "PROMPT_TOO_LONG",
               "shorten it to at most 4095");
  // A prompt that is only scored needs room for its one output token too.
  v1::GenerateRequest scored = TextRequest(std::string(kFakeContext - 1, 'x'), 1);
  scored.mutable_output()->set_prompt_logprobs(0);
  ExpectReason(Generate(scored).status, grpc::StatusCode::INVALID_ARGUMENT, "PROMPT_TOO_LONG",
               "shorten it to at most 4095");
}

TEST_F(ErrorsTest, AnEmbeddingOfMoreThanTheContext) {
  v1::EmbedRequest request;
  request.add_inputs()->set_text("x");
  v1::TokenIds* ids = request.add_inputs()->mutable_token_ids();
  for (int64_t i = 0; i <= kFakeContext; ++i) ids->add_ids(1);
  v1::EmbedResponse response;
  ExpectReason(stub_->Embed(NewContext().get(), request, &response),
               grpc::StatusCode::INVALID_ARGUMENT, "PROMPT_TOO_LONG",
               "inputs[1] has 4097 tokens; the context of model 'bytes' has 4096; shorten it to at "
               "most 4096");
}

TEST_F(ErrorsTest, TenMegabytePrompts) {
  const std::string text(10 << 20, 'x');
  ExpectRefused(TextRequest(text), "text", "10485760 bytes of text");
  v1::ChatRequest chat;
  chat.add_messages()->set_role("user");
  chat.mutable_messages(0)->set_content(text);
  ExpectReason(Chat(chat).status, grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD",
               "bytes of text");
  v1::EmbedRequest embed;
  embed.add_inputs()->set_text(text);
  v1::EmbedResponse ignored;
  ExpectReason(stub_->Embed(NewContext().get(), embed, &ignored),
               grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD", "bytes of text");
  v1::GenerateRequest parts;
  for (int i = 0; i < 10; ++i)
    parts.mutable_parts()->add_parts()->set_text(std::string(1 << 20, 'x'));
  ExpectRefused(parts, "parts", "bytes of text");
}

TEST_F(ErrorsTest, BeyondTheTransport) {
  const StreamResult result = Generate(TextRequest(std::string(size_t{65} << 20, 'x')), 60'000);
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(ErrorsTest, Models) {
  v1::GenerateRequest request = TextRequest("abc");
  request.set_model("missing");
  ExpectReason(Generate(request).status, grpc::StatusCode::NOT_FOUND, "MODEL_NOT_FOUND",
               "model 'missing' is not served here; served: bytes, plain");
  v1::ChatRequest chat;
  chat.set_model("plain");
  chat.add_messages()->set_role("user");
  ExpectReason(Chat(chat).status, grpc::StatusCode::FAILED_PRECONDITION, "NO_CHAT_TEMPLATE",
               "send the whole prompt to Generate");
  request.clear_model();
  request.add_adapters()->set_name("lora");
  ExpectReason(Generate(request).status, grpc::StatusCode::NOT_FOUND, "ADAPTER_NOT_FOUND",
               "no adapter is called \"lora\"; register it first");
}

TEST_F(ErrorsTest, Chats) {
  v1::ChatRequest chat;
  ExpectReason(Chat(chat).status, grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD",
               "messages is empty");
  chat.add_messages();
  ExpectReason(Chat(chat).status, grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD",
               "messages[0].role");
  chat.mutable_messages(0)->set_role("forbidden");
  ExpectReason(Chat(chat).status, grpc::StatusCode::INVALID_ARGUMENT, "CHAT_TEMPLATE_REFUSED",
               "no such role here");
  chat.mutable_messages(0)->set_role("user");
  const auto expect_blames = [&](const std::string& field, const std::string& part) {
    const grpc::Status status = Chat(chat).status;
    ExpectReason(status, grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD", part);
    EXPECT_EQ(FactsOf(status).bad_field, field);
  };
  for (const char* bad : {"{not json", "{}", "7", "", "0"}) {
    chat.set_tools_json(bad);
    expect_blames("tools_json", "must be a JSON array");
  }
  chat.clear_tools_json();
  for (const char* bad : {"[1]", "{\"a\":", "null"}) {
    chat.set_template_args_json(bad);
    expect_blames("template_args_json", "must be a JSON object");
  }
  chat.clear_template_args_json();
  chat.mutable_messages(0)->set_tool_calls_json("nonsense");
  expect_blames("messages", "tool_calls_json");
}

TEST_F(ErrorsTest, UnaryCalls) {
  v1::EmbedRequest embed;
  v1::EmbedResponse embeddings;
  const auto embed_status = [&] { return stub_->Embed(NewContext().get(), embed, &embeddings); };
  ExpectReason(embed_status(), grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD", "1 to 256");
  embed.add_inputs();
  ExpectReason(embed_status(), grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD",
               "inputs[0] has no content");
  embed.mutable_inputs(0)->set_text("fine");
  embed.add_inputs()->mutable_token_ids()->add_ids(1000);
  ExpectReason(embed_status(), grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD",
               "inputs[1].token_ids has the id 1000");
  embed.mutable_inputs(1)->set_text("");
  EXPECT_EQ(FactsOf(embed_status()).bad_field, "inputs[1].text");
  embed.mutable_inputs(1)->set_text(std::string(kFakeContext, 'x'));
  ExpectReason(embed_status(), grpc::StatusCode::INVALID_ARGUMENT, "PROMPT_TOO_LONG",
               "inputs[1] has 4097 tokens");
  embed.set_model("x");
  ExpectReason(embed_status(), grpc::StatusCode::NOT_FOUND, "MODEL_NOT_FOUND", "served");

  v1::TokenizeRequest tokenize;
  v1::TokenizeResponse tokens;
  ExpectReason(stub_->Tokenize(NewContext().get(), tokenize, &tokens),
               grpc::StatusCode::INVALID_ARGUMENT, "NO_INPUT", "set text or chat");
  tokenize.mutable_chat()->add_messages()->set_role("user");
  tokenize.set_add_special_tokens(true);
  ExpectReason(stub_->Tokenize(NewContext().get(), tokenize, &tokens),
               grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD", "leave it out");

  v1::DetokenizeRequest detokenize;
  v1::DetokenizeResponse text;
  detokenize.add_token_ids(-7);
  ExpectReason(stub_->Detokenize(NewContext().get(), detokenize, &text),
               grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD", "the id -7");
}

TEST_F(ErrorsTest, UnknownFieldsAtAnyDepth) {
  v1::GenerateRequest request = TextRequest("abc");
  request.GetReflection()->MutableUnknownFields(&request)->AddVarint(9999, 1);
  ExpectReason(Generate(request).status, grpc::StatusCode::INVALID_ARGUMENT, "UNKNOWN_FIELD",
               "field 9999 of tessera.v1.GenerateRequest");
  request = TextRequest("abc");
  v1::SamplingParams* sampling = request.mutable_sampling();
  sampling->GetReflection()->MutableUnknownFields(sampling)->AddLengthDelimited(77, "x");
  ExpectReason(Generate(request).status, grpc::StatusCode::INVALID_ARGUMENT, "UNKNOWN_FIELD",
               "field 77 of tessera.v1.SamplingParams (in sampling)");
  v1::ChatRequest chat;
  v1::ChatMessage* message = chat.add_messages();
  message->set_role("user");
  message->GetReflection()->MutableUnknownFields(message)->AddFixed32(100, 1);
  ExpectReason(Chat(chat).status, grpc::StatusCode::INVALID_ARGUMENT, "UNKNOWN_FIELD",
               "field 100 of tessera.v1.ChatMessage");
  v1::GetLoadRequest load;
  load.GetReflection()->MutableUnknownFields(&load)->AddVarint(5, 1);
  v1::GetLoadResponse ignored;
  ExpectReason(control_->GetLoad(NewContext().get(), load, &ignored),
               grpc::StatusCode::INVALID_ARGUMENT, "UNKNOWN_FIELD", "field 5");
}

TEST_F(ErrorsTest, InvalidUtf8AndMalformedBytes) {
  // Field 3 (text) has two bytes that are not UTF-8.
  ExpectReason(SendRaw(std::string("\x1a\x02\xff\xfe", 4)), grpc::StatusCode::INVALID_ARGUMENT,
               "INVALID_FIELD", "text is not valid UTF-8");
  // stopping.stop (field 3 in field 8) is a lone surrogate.
  ExpectReason(SendRaw(std::string("\x42\x05\x1a\x03\xed\xa0\x80", 7)),
               grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD",
               "stopping.stop is not valid UTF-8");
  for (const std::string& bytes :
       {std::string("\x1a\x7f", 2), std::string("\xff\xff\xff", 3),
        std::string("\x1a\x05"
                    "ab",
                    4),
        std::string("\x18\x01", 2), std::string("\x1b", 1), std::string(1, '\0')}) {
    const grpc::Status status = SendRaw(bytes);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << status.error_message();
  }
}

TEST_F(ErrorsTest, SmallMessagesThatWouldBeLargeInMemory) {
  // The message has half a million empty parts in one megabyte.
  std::string parts;
  for (int i = 0; i < 500'000; ++i) parts.append("\x0a\x00", 2);
  std::string bytes("\x2a", 1);
  for (size_t size = parts.size(); size > 0; size >>= 7) {
    bytes.push_back(static_cast<char>((size & 0x7f) | (size >> 7 > 0 ? 0x80 : 0)));
  }
  ExpectReason(SendRaw(bytes + parts), grpc::StatusCode::INVALID_ARGUMENT, "INVALID_FIELD",
               "more than 262144 values");
}

TEST_F(ErrorsTest, LongMessagesAreCut) {
  v1::GenerateRequest request = TextRequest("abc");
  request.set_model(std::string(100'000, 'm'));
  const StreamResult result = Generate(request);
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_LT(result.status.error_message().size(), 2000u);
  // The cut is never inside a code point.
  std::string name(255, 'm');
  while (name.size() < 300) name += "\xE2\x82\xAC";
  request.set_model(name);
  const std::string message = Generate(request).status.error_message();
  EXPECT_TRUE(IsValidUtf8(message)) << message;
  EXPECT_NE(message.find("m...'"), std::string::npos) << message;
}

TEST(ErrorTextTest, FoldersAreLeftOut) {
  const std::pair<const char*, const char*> cases[] = {
      {"/srv/models/a.json: bad", "a.json: bad"},
      {"cannot read /srv/a/b.bin", "cannot read b.bin"},
      {"/srv/a/ and (/b/c), \"/d/e\"", "a/ and (c), \"e\""},
      {"the folder /a/b: /c/d: no such file", "the folder b: d: no such file"},
      {"model '/srv/own/words' is not served", "model '/srv/own/words' is not served"},
      {"3 tokens/s, a / b, https://host/page, x/y", "3 tokens/s, a / b, https://host/page, x/y"},
      {"/", "/"},
      {"", ""},
  };
  for (const auto& [text, expected] : cases) EXPECT_EQ(WithoutFolders(text), expected);
  absl::Status status = MakeError(absl::StatusCode::kNotFound, "REASON", "/srv/a.json: gone");
  status = ForClient(status);
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(status.message(), "a.json: gone");
  EXPECT_EQ(ErrorReason(status), "REASON");
  EXPECT_EQ(ErrorReason(absl::InternalError("")), "INTERNAL");
}

}  // namespace
}  // namespace tessera::testing
