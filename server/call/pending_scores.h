// Prompt scores (logprobs of prompt tokens) that wait to be sent. They are kept in the engine's
// compact form, because a long prompt has up to a million scores and protobuf messages would take
// several times the memory. A write buffer owns this object and uses it on its responder's thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "scheduler/request.h"

namespace tessera {

class Tokenizer;

namespace v1 {
class PromptScores;
class TokenLogprob;
}  // namespace v1

// The approximate size of one score on the wire. It includes the bytes of the tokens.
int64_t ScoreBytes(const v1::TokenLogprob& score);
int64_t ScoreBytes(const OutputToken& token, const Tokenizer& tokenizer);

void CopyScore(const OutputToken& token, const Tokenizer& tokenizer, v1::TokenLogprob* score);

class PendingScores final {
 public:
  // REQUIRES: *tokenizer outlives the object.
  PendingScores(std::vector<OutputToken> tokens, const Tokenizer* tokenizer);

  // Moves the next scores into `message`, about `max_bytes` of them.
  void TakeInto(int64_t max_bytes, v1::PromptScores* message);

  bool empty() const { return begin_ == tokens_.size(); }
  // Approximate wire bytes of the scores that are not yet taken.
  int64_t bytes() const { return bytes_; }

 private:
  std::vector<OutputToken> tokens_;
  const Tokenizer* tokenizer_;
  size_t begin_ = 0;
  int64_t bytes_ = 0;
};

}  // namespace tessera
