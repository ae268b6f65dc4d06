#include "server/call/pending_scores.h"

#include <utility>

#include "server/text/tokenizer/tokenizer.h"
#include "tessera/v1/inference.pb.h"

namespace tessera {
namespace {

// Without the bytes of the token.
constexpr int64_t kTokenBytes = 18;
constexpr int64_t kCandidateBytes = 14;

int64_t TextBytes(TokenId token, const Tokenizer& tokenizer) {
  return static_cast<int64_t>(tokenizer.TokenBytes(token).size());
}

}  // namespace

int64_t ScoreBytes(const v1::TokenLogprob& score) {
  int64_t bytes = kTokenBytes + static_cast<int64_t>(score.token().size());
  for (const v1::TopLogprob& candidate : score.top()) {
    bytes += kCandidateBytes + static_cast<int64_t>(candidate.token().size());
  }
  return bytes;
}

int64_t ScoreBytes(const OutputToken& token, const Tokenizer& tokenizer) {
  int64_t bytes = kTokenBytes + TextBytes(token.token, tokenizer);
  for (const TokenLogprob& candidate : token.top) {
    bytes += kCandidateBytes + TextBytes(candidate.token, tokenizer);
  }
  return bytes;
}

void CopyScore(const OutputToken& token, const Tokenizer& tokenizer, v1::TokenLogprob* score) {
  score->set_token_id(token.token);
  score->set_logprob(token.logprob);
  score->set_token(std::string(tokenizer.TokenBytes(token.token)));
  for (const TokenLogprob& candidate : token.top) {
    v1::TopLogprob* top = score->add_top();
    top->set_token_id(candidate.token);
    top->set_logprob(candidate.logprob);
    top->set_token(std::string(tokenizer.TokenBytes(candidate.token)));
  }
}

PendingScores::PendingScores(std::vector<OutputToken> tokens, const Tokenizer* tokenizer)
    : tokens_(std::move(tokens)), tokenizer_(tokenizer) {
  for (const OutputToken& token : tokens_) bytes_ += ScoreBytes(token, *tokenizer_);
}

void PendingScores::TakeInto(int64_t max_bytes, v1::PromptScores* message) {
  int64_t bytes = 0;
  while (!empty() && bytes < max_bytes) {
    OutputToken& token = tokens_[begin_++];
    bytes += ScoreBytes(token, *tokenizer_);
    CopyScore(token, *tokenizer_, message->add_logprobs());
    token.top = {};
  }
  bytes_ -= bytes;
}

}  // namespace tessera
