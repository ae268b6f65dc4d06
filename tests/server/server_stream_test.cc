// Tests of streams over real sockets: order, deltas, cancellation in every state, deadlines,
// slow readers.
#include <thread>

#include "absl/strings/str_cat.h"
#include "server/text/tokenizer/utf8.h"
#include "tests/server/server_fixture.h"

namespace tessera::testing {
namespace {

class StreamTest : public ServerTest {};

TEST_F(StreamTest, EchoesTheWholeTextInOrder) {
  const StreamResult result = Generate(TextRequest("abc", 9));
  result.ExpectWellFormed();
  EXPECT_EQ(result.messages[0].accepted().prompt_tokens(), 4);  // <s> a b c
  EXPECT_EQ(result.Text(), "abcabc");                           // <s> has no text
  EXPECT_EQ(result.Ids(), (std::vector<int>{256, 97, 98, 99, 256, 97, 98, 99, 256}));
  const v1::GenerateResponse* end = result.FinishedOf();
  EXPECT_EQ(end->finished().reason(), v1::FINISH_REASON_LENGTH);
  // Each time of the engine is in its own field: the fake generator gives four different ones.
  EXPECT_EQ(end->timing().queue_us(), 1);
  EXPECT_EQ(end->timing().prefill_us(), 2);
  EXPECT_EQ(end->timing().decode_us(), 3);
  EXPECT_EQ(end->timing().ttft_us(), 4);
  EXPECT_EQ(end->usage().prompt_tokens(), 4);
  EXPECT_EQ(end->usage().cached_prompt_tokens(), 0);
  EXPECT_EQ(end->usage().completion_tokens(), 9);
}

TEST_F(StreamTest, DeltasAreValidUtf8) {
  const std::string text = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80z";
  v1::GenerateRequest request;
  for (const char c : text) {
    request.mutable_token_ids()->add_ids(static_cast<unsigned char>(c));
  }
  request.mutable_stopping()->set_max_tokens(static_cast<int64_t>(text.size()));
  const StreamResult whole = Generate(request);
  whole.ExpectWellFormed();
  EXPECT_EQ(whole.Text(), text);
  // The output ends inside the last code point, whose bytes become U+FFFD.
  request.mutable_stopping()->set_max_tokens(8);
  const StreamResult cut = Generate(request);
  cut.ExpectWellFormed();
  EXPECT_EQ(cut.Text(), "a\xC3\xA9\xE2\x82\xAC\xEF\xBF\xBD");
}

TEST_F(StreamTest, PartsAreConcatenated) {
  v1::GenerateRequest request;
  request.mutable_parts()->add_parts()->set_text("ab");
  request.mutable_parts()->add_parts()->mutable_token_ids()->add_ids(99);
  v1::Part* part = request.mutable_parts()->add_parts();
  part->set_text("d");
  part->set_document_id("doc");
  request.mutable_stopping()->set_max_tokens(5);
  const StreamResult result = Generate(request);
  result.ExpectWellFormed();
  EXPECT_EQ(result.Ids(), (std::vector<int>{256, 97, 98, 99, 100}));
}

TEST_F(StreamTest, SeveralIndices) {
  v1::GenerateRequest request = TextRequest("xy", 6);
  request.mutable_sampling()->set_n(5);
  const StreamResult result = Generate(request);
  result.ExpectWellFormed(5);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(result.Text(i), "xyxy");
}

TEST_F(StreamTest, Logprobs) {
  v1::GenerateRequest request = TextRequest("ab", 3);
  request.mutable_output()->set_logprobs(2);
  request.mutable_output()->set_prompt_logprobs(0);
  const StreamResult result = Generate(request);
  result.ExpectWellFormed();
  ASSERT_TRUE(result.messages[1].has_prompt());
  ASSERT_EQ(result.messages[1].prompt().logprobs_size(), 2);
  EXPECT_EQ(result.messages[1].prompt().logprobs(0).token_id(), 97);
  EXPECT_EQ(result.messages[1].prompt().logprobs(0).top_size(), 0);
  int num_scores = 0;
  for (const v1::GenerateResponse& message : result.messages) {
    EXPECT_EQ(message.output().logprobs_size(), message.output().token_ids_size());
    for (const v1::TokenLogprob& score : message.output().logprobs()) {
      ++num_scores;
      EXPECT_EQ(score.logprob(), -0.5f);
      EXPECT_EQ(score.top_size(), 2);
    }
  }
  EXPECT_EQ(num_scores, 3);
}

// A score has the bytes of its token, which may be a part of a code point.
TEST_F(StreamTest, LogprobsHaveTheBytesOfTheTokens) {
  v1::GenerateRequest request;
  for (const int id : {0xC3, 0xA9, int{kFakeBos}, 299}) request.mutable_token_ids()->add_ids(id);
  request.mutable_stopping()->set_max_tokens(4);
  request.mutable_output()->set_logprobs(2);
  request.mutable_output()->set_prompt_logprobs(1);
  const StreamResult result = Generate(request);
  result.ExpectWellFormed();
  std::vector<std::string> prompt, output;
  for (const v1::GenerateResponse& message : result.messages) {
    for (const v1::TokenLogprob& score : message.prompt().logprobs()) {
      prompt.push_back(score.token());
      ASSERT_EQ(score.top_size(), 1);
      EXPECT_EQ(score.top(0).token(), std::string(1, '\0'));
    }
    for (const v1::TokenLogprob& score : message.output().logprobs()) {
      output.push_back(score.token());
      ASSERT_EQ(score.top_size(), 2);
      EXPECT_EQ(score.top(1).token(), "\x01");
    }
  }
  EXPECT_EQ(prompt, (std::vector<std::string>{"\xA9", "<s>", ""}));
  EXPECT_EQ(output, (std::vector<std::string>{"\xC3", "\xA9", "<s>", ""}));
}

TEST_F(StreamTest, LongPromptScoresComeInSeveralMessages) {
  v1::GenerateRequest request = TextRequest(std::string(3000, 'x'), 1);
  request.mutable_output()->set_prompt_logprobs(100);
  const StreamResult result = Generate(request);
  result.ExpectWellFormed();
  int num_messages = 0;
  int num_scores = 0;
  for (const v1::GenerateResponse& message : result.messages) {
    if (!message.has_prompt()) continue;
    ++num_messages;
    num_scores += message.prompt().logprobs_size();
    EXPECT_LT(message.ByteSizeLong(), 3u << 20);
  }
  EXPECT_GT(num_messages, 1);
  EXPECT_EQ(num_scores, 3000);
}

TEST_F(StreamTest, ParametersReachTheEngine) {
  v1::GenerateRequest request = TextRequest("abc", 7);
  request.set_model("plain");
  request.mutable_sampling()->set_temperature(0.5f);
  request.mutable_sampling()->set_top_k(3);
  request.mutable_sampling()->set_top_p(0.25f);
  request.mutable_sampling()->set_min_p(0.125f);
  request.mutable_sampling()->set_seed(42);
  request.mutable_sampling()->set_repetition_penalty(1.5f);
  request.mutable_sampling()->set_presence_penalty(-1.0f);
  request.mutable_sampling()->set_frequency_penalty(1.0f);
  (*request.mutable_sampling()->mutable_logit_bias())[5] = -100.0f;
  (*request.mutable_sampling()->mutable_logit_bias())[3] = 1.0f;
  request.mutable_stopping()->set_min_tokens(2);
  request.mutable_stopping()->set_time_limit_ms(60'000);
  request.mutable_cache()->set_bypass_prefix(true);
  request.mutable_cache()->set_salt("pepper");
  request.set_priority(v1::PRIORITY_HIGH);
  Generate(request).ExpectWellFormed();
  const Request seen = generator_->last();
  EXPECT_EQ(seen.model, 1);
  EXPECT_EQ(seen.sampling.temperature, 0.5f);
  EXPECT_EQ(seen.sampling.top_k, 3);
  EXPECT_EQ(seen.sampling.top_p, 0.25f);
  EXPECT_EQ(seen.sampling.min_p, 0.125f);
  EXPECT_EQ(seen.sampling.seed, 42u);
  EXPECT_EQ(seen.sampling.repetition_penalty, 1.5f);
  EXPECT_EQ(seen.sampling.presence_penalty, -1.0f);
  EXPECT_EQ(seen.sampling.frequency_penalty, 1.0f);
  ASSERT_EQ(seen.sampling.logit_bias.size(), 2u);
  EXPECT_EQ(seen.sampling.logit_bias[0].token, 3);
  EXPECT_EQ(seen.sampling.logit_bias[1].bias, -100.0f);
  EXPECT_EQ(seen.stopping.max_tokens, 7);
  EXPECT_EQ(seen.stopping.min_tokens, 2);
  EXPECT_EQ(seen.stopping.time_limit_us, 60'000'000);
  EXPECT_EQ(seen.stopping.eos_ids, std::vector<TokenId>{kFakeEos});
  EXPECT_TRUE(seen.bypass_prefix);
  EXPECT_EQ(seen.salt, "pepper");
  EXPECT_EQ(seen.priority, Priority::kHigh);
  EXPECT_GT(seen.arrival_us, 0);
}

TEST_F(StreamTest, DefaultsOfAnEmptyRequest) {
  v1::GenerateRequest request;
  request.set_text("abc</s>");
  Generate(request).ExpectWellFormed();
  const uint64_t first_seed = generator_->last().sampling.seed;
  const Request seen = generator_->last();
  EXPECT_EQ(seen.model, 0);
  EXPECT_EQ(seen.sampling.temperature, 1.0f);
  EXPECT_EQ(seen.sampling.n, 1);
  EXPECT_EQ(seen.stopping.max_tokens, kFakeContext - 5);
  EXPECT_EQ(seen.logprobs, -1);
  EXPECT_EQ(seen.prompt_logprobs, -1);
  EXPECT_EQ(seen.priority, Priority::kNormal);
  Generate(request).ExpectWellFormed();
  EXPECT_NE(generator_->last().sampling.seed, first_seed);
}

TEST_F(StreamTest, MaxTokensBeyondTheContextEndsThere) {
  v1::GenerateRequest request = TextRequest(std::string(kFakeContext - 4, 'x'), 1'000'000);
  const StreamResult result = Generate(request);
  result.ExpectWellFormed();
  EXPECT_EQ(result.Ids().size(), 3u);
  EXPECT_EQ(result.FinishedOf()->finished().reason(), v1::FINISH_REASON_LENGTH);
}

TEST_F(StreamTest, ChatUsesTheTemplateAndAddsNoSpecialTokens) {
  v1::ChatRequest request;
  v1::ChatMessage* message = request.add_messages();
  message->set_role("user");
  message->set_content("hi");
  request.mutable_stopping()->set_max_tokens(20);
  StreamResult result = Chat(request);
  result.ExpectWellFormed();
  EXPECT_EQ(result.messages[0].accepted().prompt_tokens(),
            20);  // includes one <s>, which the template writes
  EXPECT_EQ(result.Text(), "[user]hi[assistant]");
  request.set_add_generation_prompt(false);
  request.set_tools_json("[{}, {}]");
  request.set_template_args_json("{\"extra\": 7}");
  request.mutable_stopping()->set_max_tokens(21);
  EXPECT_EQ(Chat(request).Text(), "[user]hi<tools:2><7>");
}

// An embedding generates nothing, so it needs no room for an output token.
TEST_F(StreamTest, AnEmbeddingTakesTheWholeContext) {
  v1::EmbedRequest request;
  v1::TokenIds* ids = request.add_inputs()->mutable_token_ids();
  for (int64_t i = 0; i < kFakeContext; ++i) ids->add_ids(1);
  v1::EmbedResponse response;
  const grpc::Status status = stub_->Embed(NewContext().get(), request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.embeddings_size(), 1);
  EXPECT_EQ(response.usage().prompt_tokens(), kFakeContext);
}

TEST_F(StreamTest, EmbedTokenizeDetokenize) {
  v1::EmbedRequest embed;
  embed.add_inputs()->set_text("a");
  embed.add_inputs()->mutable_token_ids()->add_ids(3);
  v1::EmbedResponse embeddings;
  ASSERT_TRUE(stub_->Embed(NewContext().get(), embed, &embeddings).ok());
  ASSERT_EQ(embeddings.embeddings_size(), 2);
  EXPECT_EQ(embeddings.embeddings(0).values(0), 1.0f);  // <s> is 256
  EXPECT_EQ(embeddings.embeddings(1).values(3), 1.0f);
  EXPECT_EQ(embeddings.usage().prompt_tokens(), 3);

  v1::TokenizeRequest tokenize;
  tokenize.set_text("ab</s>");
  v1::TokenizeResponse tokens;
  ASSERT_TRUE(stub_->Tokenize(NewContext().get(), tokenize, &tokens).ok());
  EXPECT_EQ((std::vector<int>(tokens.token_ids().begin(), tokens.token_ids().end())),
            (std::vector<int>{256, 97, 98, 257}));
  EXPECT_EQ(tokens.text(), "ab</s>");
  tokenize.set_add_special_tokens(false);
  ASSERT_TRUE(stub_->Tokenize(NewContext().get(), tokenize, &tokens).ok());
  EXPECT_EQ(tokens.token_ids_size(), 3);
  tokenize.clear_add_special_tokens();
  v1::ChatMessage* message = tokenize.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content("x");
  ASSERT_TRUE(stub_->Tokenize(NewContext().get(), tokenize, &tokens).ok());
  EXPECT_EQ(tokens.text(), "<s>[user]x[assistant]");
  EXPECT_EQ(tokens.token_ids(0), 256);

  v1::DetokenizeRequest detokenize;
  for (const int id : {256, 97, 257}) detokenize.add_token_ids(id);
  v1::DetokenizeResponse text;
  ASSERT_TRUE(stub_->Detokenize(NewContext().get(), detokenize, &text).ok());
  EXPECT_EQ(text.text(), "<s>a</s>");
  detokenize.set_skip_special_tokens(true);
  ASSERT_TRUE(stub_->Detokenize(NewContext().get(), detokenize, &text).ok());
  EXPECT_EQ(text.text(), "a");
}

TEST_F(StreamTest, RequestIds) {
  Start({.held = true}, {});
  v1::GenerateRequest request = TextRequest("abc", 3);
  request.set_request_id("mine");
  const auto context = NewContext();
  const auto reader = stub_->Generate(context.get(), request);
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_EQ(message.request_id(), "mine");
  EXPECT_EQ(generator_->last().name, "mine");
  const StreamResult twin = Generate(request);
  EXPECT_EQ(twin.status.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(FactsOf(twin.status).reason, "REQUEST_ID_IN_USE");
  generator_->Release();
  while (reader->Read(&message)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
  Generate(request).ExpectWellFormed();  // the request id is free again
  const StreamResult first = Generate(TextRequest("a"));
  const StreamResult second = Generate(TextRequest("a"));
  EXPECT_NE(first.messages[0].request_id(), second.messages[0].request_id());
  EXPECT_EQ(generator_->last().name, second.messages[0].request_id());
}

TEST_F(StreamTest, EngineErrorsAreFinishedEvents) {
  Start({.fail = true}, {});
  const StreamResult result = Generate(TextRequest("abc"));
  result.ExpectWellFormed();
  const v1::Finished& finished = result.FinishedOf()->finished();
  EXPECT_EQ(finished.reason(), v1::FINISH_REASON_ERROR);
  EXPECT_EQ(finished.status().code(), static_cast<int>(grpc::StatusCode::INTERNAL));
  EXPECT_EQ(finished.status().message(), "a.json: the step failed");  // without folders
}

TEST_F(StreamTest, EngineErrorsOfAnEmbeddingAreStatuses) {
  Start({.fail = true}, {});
  v1::EmbedRequest request;
  request.add_inputs()->set_text("abc");
  request.add_inputs()->set_text("def");
  v1::EmbedResponse response;
  const auto context = NewContext();
  const grpc::Status status = stub_->Embed(context.get(), request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(status.error_message(), "a.json: the step failed");
}

// The next tests cancel a call in each of its states. Afterwards no state of the call is left.
TEST_F(StreamTest, ClientCancelsWhileQueued) {
  Start({.held = true}, {});
  auto context = NewContext();
  auto reader = stub_->Generate(context.get(), TextRequest("abc", 1000));
  v1::GenerateResponse message;
  ASSERT_TRUE(reader->Read(&message));
  EXPECT_TRUE(message.has_accepted());
  context->TryCancel();
  EXPECT_FALSE(reader->Read(&message));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  WaitFor("the sequence to go", [&] { return generator_->num_live() == 0; });
  WaitFor("the call to close", [&] { return server_->num_open_calls() == 0; });
}

TEST_F(StreamTest, ClientCancelsWhileDecoding) {
  Start({.token_us = 1000}, {});
  auto context = NewContext();
  auto reader = stub_->Generate(context.get(), TextRequest("abc", 4000));
  v1::GenerateResponse message;
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(reader->Read(&message));
  context->TryCancel();
  while (reader->Read(&message)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  WaitFor("the sequence to go", [&] { return generator_->num_live() == 0; });
  WaitFor("the call to close", [&] { return server_->num_open_calls() == 0; });
}

TEST_F(StreamTest, ClientCancelsWhileItsPromptIsTokenised) {
  // Large prompts keep the preparer busy; the last prompts are cancelled while they wait for it.
  v1::TokenizeRequest large;
  large.set_text(std::string(static_cast<size_t>(DefaultMaxPromptBytes(kFakeContext)), 'x'));
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      v1::TokenizeResponse response;
      const grpc::Status status = stub_->Tokenize(NewContext(10).get(), large, &response);
      EXPECT_TRUE(status.ok() || status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED)
          << status.error_message();
    });
  }
  for (std::thread& thread : threads) thread.join();
  WaitFor("the calls to close", [&] { return server_->num_open_calls() == 0; });
  Generate(TextRequest("still there")).ExpectWellFormed();
}

TEST_F(StreamTest, DeadlineInQueueAndInMidStream) {
  Start({.held = true}, {});
  StreamResult result = Generate(TextRequest("abc", 4000), 200);
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  WaitFor("the sequence to go", [&] { return generator_->num_live() == 0; });
  Start({.token_us = 1000}, {});
  result = Generate(TextRequest("abc", 4000), 300);
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_GT(result.messages.size(), 2u);
  WaitFor("the sequence to go", [&] { return generator_->num_live() == 0; });
  WaitFor("the call to close", [&] { return server_->num_open_calls() == 0; });
}

TEST_F(StreamTest, DisconnectFreesTheCall) {
  Start({.token_us = 1000}, {});
  {
    auto stub = v1::Inference::NewStub(NewChannel());
    auto context = NewContext();
    auto reader = stub->Generate(context.get(), TextRequest("abc", 4000));
    v1::GenerateResponse message;
    ASSERT_TRUE(reader->Read(&message));
    context->TryCancel();
    while (reader->Read(&message)) {
    }
    reader->Finish();
  }
  WaitFor("the sequence to go", [&] { return generator_->num_live() == 0; });
  WaitFor("the call to close", [&] { return server_->num_open_calls() == 0; });
}

TEST_F(StreamTest, ControlCancelFinishesTheStream) {
  Start({.token_us = 1000}, {});
  v1::GenerateRequest request = TextRequest("abc", 4000);
  request.set_request_id("victim");
  request.mutable_sampling()->set_n(2);
  StreamResult result;
  std::thread reader([&] { result = Generate(request); });
  WaitFor("a token", [&] { return generator_->num_tokens() > 10; });
  v1::CancelRequest cancel;
  cancel.set_request_id("victim");
  v1::CancelResponse response;
  ASSERT_TRUE(control_->Cancel(NewContext().get(), cancel, &response).ok());
  EXPECT_TRUE(response.found());
  reader.join();
  result.ExpectWellFormed(2);
  EXPECT_EQ(result.FinishedOf(0)->finished().reason(), v1::FINISH_REASON_CANCELLED);
  EXPECT_EQ(result.FinishedOf(1)->finished().reason(), v1::FINISH_REASON_CANCELLED);
  ASSERT_TRUE(control_->Cancel(NewContext().get(), cancel, &response).ok());
  EXPECT_FALSE(response.found());
}

TEST_F(StreamTest, SlowReaderIsPausedAndLosesNothing) {
  Start({.token_us = 100}, {});
  context_->stream_buffer_bytes = 16 << 10;
  v1::GenerateRequest request;
  request.mutable_token_ids()->add_ids('x');
  request.mutable_stopping()->set_max_tokens(4000);
  request.mutable_output()->set_logprobs(100);  // about 1.3 KB per token
  auto context = NewContext();
  auto reader = stub_->Generate(context.get(), request);
  WaitFor("the pause", [&] { return generator_->num_paused() == 1; });
  const int64_t tokens_when_paused = generator_->num_tokens();
  EXPECT_LT(tokens_when_paused, 4000);
  // Other streams are not delayed.
  Generate(TextRequest("abc", 500)).ExpectWellFormed();
  EXPECT_EQ(generator_->num_paused(), 1);
  StreamResult result;
  v1::GenerateResponse message;
  while (reader->Read(&message)) result.messages.push_back(message);
  result.status = reader->Finish();
  result.ExpectWellFormed();
  EXPECT_EQ(result.Ids().size(), 4000u);
  EXPECT_EQ(result.Text(), std::string(4000, 'x'));
  EXPECT_LT(result.messages.size(), 4000u);  // waiting messages were merged
  EXPECT_EQ(generator_->num_paused(), 0);
}

TEST_F(StreamTest, ClientCancelsWhilePaused) {
  Start({.token_us = 100}, {});
  context_->stream_buffer_bytes = 1 << 10;
  v1::GenerateRequest request = TextRequest("x", 4000);
  request.mutable_output()->set_logprobs(100);
  auto context = NewContext();
  auto reader = stub_->Generate(context.get(), request);
  WaitFor("the pause", [&] { return generator_->num_paused() == 1; });
  context->TryCancel();
  v1::GenerateResponse message;
  while (reader->Read(&message)) {
  }
  reader->Finish();
  WaitFor("the sequence to go", [&] { return generator_->num_live() == 0; });
  WaitFor("the call to close", [&] { return server_->num_open_calls() == 0; });
}

TEST_F(StreamTest, QueueFullTellsWhenToRetry) {
  Start({.max_requests = 0}, {});
  const StreamResult result = Generate(TextRequest("abc"));
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  const ErrorFacts facts = FactsOf(result.status);
  EXPECT_EQ(facts.reason, "QUEUE_FULL");
  EXPECT_EQ(facts.domain, "tessera");
  EXPECT_EQ(facts.retry_us, 1'500'000);
  EXPECT_EQ(result.status.error_message(), "the queue is full: retry in about 1500 ms");
  EXPECT_TRUE(result.messages.empty());
}

TEST_F(StreamTest, TooManyOpenCallsAreRefusedBeforeTheyAreRead) {
  Start({.held = true}, {});
  context_->max_open_calls = 3;
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers;
  for (int i = 0; i < 3; ++i) {
    contexts.push_back(NewContext());
    readers.push_back(stub_->Generate(contexts.back().get(), TextRequest("abc", 3)));
    v1::GenerateResponse message;
    ASSERT_TRUE(readers.back()->Read(&message));
  }
  const StreamResult result = Generate(TextRequest("abc"));
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(FactsOf(result.status).reason, "TOO_MANY_CALLS");
  generator_->Release();
  for (const auto& reader : readers) {
    v1::GenerateResponse message;
    while (reader->Read(&message)) {
    }
    EXPECT_TRUE(reader->Finish().ok());
  }
}

TEST_F(StreamTest, CancelledCallsAreNotOpenWhileTheirResponderIsBusy) {
  Start({}, {.responder_threads = 1});
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers;
  {
    // The first call keeps the responder at its submission; the others wait for the responder.
    const std::unique_lock<std::mutex> blocked = generator_->Block();
    for (int i = 0; i < 5; ++i) {
      contexts.push_back(NewContext());
      readers.push_back(stub_->Generate(contexts.back().get(), TextRequest("abc")));
    }
    WaitFor("the calls", [&] { return server_->num_open_calls() == 5; });
    for (const auto& context : contexts) context->TryCancel();
    WaitFor("no open call", [&] { return server_->num_open_calls() == 0; });
  }
  for (const auto& reader : readers) {
    v1::GenerateResponse message;
    while (reader->Read(&message)) {
    }
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  }
  Generate(TextRequest("abc")).ExpectWellFormed();  // after the cancelled calls
  EXPECT_LE(generator_->num_submitted(), 2);        // the first call may have been submitted
}

TEST_F(StreamTest, ManyStreamsAtOnce) {
  Start({.token_us = 500}, {.responder_threads = 3});
  constexpr int kThreads = 50;
  std::vector<std::thread> threads;
  std::vector<StreamResult> results(kThreads * 4);
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 4; ++i) {
        results[static_cast<size_t>(t * 4 + i)] =
            Generate(TextRequest(absl::StrCat("call ", t, ".", i, ";"), 40));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int t = 0; t < kThreads; ++t) {
    for (int i = 0; i < 4; ++i) {
      const StreamResult& result = results[static_cast<size_t>(t * 4 + i)];
      result.ExpectWellFormed();
      EXPECT_EQ(result.Text().rfind(absl::StrCat("call ", t, ".", i, ";"), 0), 0u);
    }
  }
  EXPECT_EQ(generator_->num_live(), 0);
  WaitFor("the calls to close", [&] { return server_->num_open_calls() == 0; });
}

TEST_F(StreamTest, CancelAllEndsWhatIsLeft) {
  Start({.held = true}, {});
  StreamResult result;
  std::thread reader([&] { result = Generate(TextRequest("abc", 100)); });
  WaitFor("the submission", [&] { return generator_->num_live() == 1; });
  server_->BeginDrain();
  server_->CancelAll();
  reader.join();
  result.ExpectWellFormed();
  EXPECT_EQ(result.FinishedOf()->finished().reason(), v1::FINISH_REASON_CANCELLED);
}

}  // namespace
}  // namespace tessera::testing
