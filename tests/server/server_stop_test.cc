// Tests over real sockets of how a stream stops: end-of-sequence, stop ids and stop strings.
#include <string>

#include "tests/server/server_fixture.h"

namespace tessera::testing {
namespace {

class StopTest : public ServerTest {};

TEST_F(StopTest, EndOfSequenceAndStopIds) {
  v1::GenerateRequest request;
  for (const int id : {97, 98, kFakeEos, 99}) request.mutable_token_ids()->add_ids(id);
  StreamResult result = Generate(request);
  result.ExpectWellFormed();
  EXPECT_EQ(result.Text(), "ab");
  EXPECT_EQ(result.FinishedOf()->finished().reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(result.FinishedOf()->finished().eos_token_id(), kFakeEos);
  EXPECT_EQ(result.FinishedOf()->usage().completion_tokens(), 3);

  request.mutable_stopping()->add_stop_token_ids(98);
  result = Generate(request);
  result.ExpectWellFormed();
  EXPECT_EQ(result.Text(), "a");
  EXPECT_EQ(result.FinishedOf()->finished().stop_token_id(), 98);

  request.mutable_stopping()->set_include_stop(true);
  EXPECT_EQ(Generate(request).Text(), "ab");

  request.mutable_stopping()->clear_stop_token_ids();
  request.mutable_stopping()->set_ignore_eos(true);
  request.mutable_stopping()->set_max_tokens(6);
  result = Generate(request);
  EXPECT_EQ(result.Text(), "abcab");
  EXPECT_EQ(result.FinishedOf()->finished().reason(), v1::FINISH_REASON_LENGTH);
}

TEST_F(StopTest, StopStringsAcrossTokenBorders) {
  v1::GenerateRequest request = TextRequest("hello world", 100);
  request.mutable_stopping()->add_stop("nowhere");
  request.mutable_stopping()->add_stop("lo wor");
  StreamResult result = Generate(request);
  result.ExpectWellFormed();
  EXPECT_EQ(result.Text(), "hel");
  const v1::Finished& finished = result.FinishedOf()->finished();
  EXPECT_EQ(finished.reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(finished.stop_text(), "lo wor");
  EXPECT_EQ(result.FinishedOf()->usage().completion_tokens(), 10);  // <s> and "hello wor"
  WaitFor("the engine to end it", [&] { return generator_->num_live() == 0; });

  request.mutable_stopping()->set_include_stop(true);
  EXPECT_EQ(Generate(request).Text(), "hello wor");
}

TEST_F(StopTest, StopStringsWaitForMinTokens) {
  v1::GenerateRequest request = TextRequest("ab", 100);
  request.mutable_stopping()->add_stop("b");
  // The output is <s> a b <s> a b. A stop string that ends within the first min_tokens tokens is
  // ordinary text; a later one ends the stream.
  for (const int64_t min_tokens : {3, 4}) {
    request.mutable_stopping()->set_min_tokens(min_tokens);
    EXPECT_EQ(Generate(request).Text(), "aba") << min_tokens;
  }
  request.mutable_stopping()->set_min_tokens(2);
  EXPECT_EQ(Generate(request).Text(), "a");
}

// The text leaves special tokens out, so their stop strings are found by id.
TEST_F(StopTest, AStopStringThatIsASpecialTokenIsAStopId) {
  v1::GenerateRequest request;
  for (const int id : {97, 98, int{kFakeBos}, 99}) request.mutable_token_ids()->add_ids(id);
  request.mutable_stopping()->set_max_tokens(8);
  request.mutable_stopping()->add_stop("<s>");
  const auto expect_stop = [&](const std::string& text, int64_t num_tokens) {
    const StreamResult result = Generate(request);
    result.ExpectWellFormed();
    EXPECT_EQ(result.Text(), text);
    const v1::GenerateResponse* end = result.FinishedOf();
    EXPECT_EQ(end->finished().reason(), v1::FINISH_REASON_STOP);
    EXPECT_EQ(end->finished().stop_text(), "<s>");
    EXPECT_EQ(end->usage().completion_tokens(), num_tokens);
  };
  for (const bool skips : {true, false}) {
    request.mutable_output()->set_skip_special_tokens(skips);
    request.mutable_stopping()->set_include_stop(false);
    expect_stop("ab", 3);
    request.mutable_stopping()->set_include_stop(true);
    expect_stop("ab<s>", 3);
  }
  request.clear_output();
  expect_stop("ab<s>", 3);
  // The engine does not sample a stop id within min_tokens. The fake generator repeats the prompt
  // and ignores the id.
  request.mutable_stopping()->set_min_tokens(3);
  expect_stop("abcab<s>", 7);
  // As an id of the client, the token is reported by its id and has no text.
  request.mutable_stopping()->set_min_tokens(0);
  request.mutable_stopping()->add_stop_token_ids(kFakeBos);
  const StreamResult by_id = Generate(request);
  EXPECT_EQ(by_id.Text(), "ab");
  EXPECT_EQ(by_id.FinishedOf()->finished().stop_token_id(), kFakeBos);
}

// End-of-sequence comes first, but include_stop keeps the stop string in the text.
TEST_F(StopTest, AStopStringThatIsTheEndOfSequence) {
  v1::GenerateRequest request = TextRequest("ab</s>c", 20);
  request.mutable_stopping()->add_stop("</s>");
  request.mutable_stopping()->set_include_stop(true);
  const StreamResult result = Generate(request);
  EXPECT_EQ(result.Text(), "ab</s>");
  EXPECT_EQ(result.FinishedOf()->finished().eos_token_id(), kFakeEos);
  request.mutable_stopping()->set_ignore_eos(true);
  EXPECT_EQ(Generate(request).FinishedOf()->finished().stop_text(), "</s>");
}

// Stop strings are looked for in the text that the client receives.
TEST_F(StopTest, StopStringsWithSpecialTokensAndMoreText) {
  v1::GenerateRequest request;
  for (const int id : {97, 98, int{kFakeBos}, 99}) request.mutable_token_ids()->add_ids(id);
  request.mutable_stopping()->set_max_tokens(8);
  request.mutable_stopping()->add_stop("b<s>c");
  EXPECT_EQ(Generate(request).Text(), "abcabc");
  request.mutable_output()->set_skip_special_tokens(false);
  StreamResult result = Generate(request);
  result.ExpectWellFormed();
  EXPECT_EQ(result.Text(), "a");
  EXPECT_EQ(result.FinishedOf()->finished().stop_text(), "b<s>c");
  request.mutable_stopping()->clear_stop();
  EXPECT_EQ(Generate(request).Text(), "ab<s>cab<s>c");
  // A stop string may go across a token that the text leaves out.
  request.clear_output();
  request.mutable_stopping()->add_stop("bc");
  EXPECT_EQ(Generate(request).Text(), "a");
  // The string of a special token that is spelt by ordinary tokens is text.
  request = TextRequest("x", 100);
  request.clear_text();
  for (const char c : std::string("x<s>y")) request.mutable_token_ids()->add_ids(c);
  request.mutable_stopping()->add_stop("<s>");
  result = Generate(request);
  EXPECT_EQ(result.Text(), "x");
  EXPECT_EQ(result.FinishedOf()->finished().stop_text(), "<s>");
}

TEST_F(StopTest, HeldBackTextComesAtTheEnd) {
  v1::GenerateRequest request = TextRequest("abc", 4);
  request.mutable_stopping()->add_stop("bcd");
  const StreamResult result = Generate(request);
  result.ExpectWellFormed();
  EXPECT_EQ(result.Text(), "abc");
}

}  // namespace
}  // namespace tessera::testing
