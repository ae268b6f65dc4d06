#include "server/call/pending_scores.h"

#include <utility>

#include "tessera/v1/inference.pb.h"

namespace tessera {
namespace {

constexpr int64_t kTokenBytes = 16;
constexpr int64_t kCandidateBytes = 12;

}  // namespace

int64_t ScoreBytes(const v1::TokenLogprob& score) {
  return kTokenBytes + kCandidateBytes * score.top_size();
}

int64_t ScoreBytes(const OutputToken& token) {
  return kTokenBytes + kCandidateBytes * static_cast<int64_t>(token.top.size());
}

void CopyScore(const OutputToken& token, v1::TokenLogprob* score) {
  score->set_token_id(token.token);
  score->set_logprob(token.logprob);
  for (const TokenLogprob& candidate : token.top) {
    v1::TopLogprob* top = score->add_top();
    top->set_token_id(candidate.token);
    top->set_logprob(candidate.logprob);
  }
}

PendingScores::PendingScores(std::vector<OutputToken> tokens) : tokens_(std::move(tokens)) {
  for (const OutputToken& token : tokens_) bytes_ += ScoreBytes(token);
}

void PendingScores::TakeInto(int64_t max_bytes, v1::PromptScores* message) {
  int64_t bytes = 0;
  while (!empty() && bytes < max_bytes) {
    OutputToken& token = tokens_[begin_++];
    bytes += ScoreBytes(token);
    CopyScore(token, message->add_logprobs());
    token.top = {};
  }
  bytes_ -= bytes;
}

}  // namespace tessera
