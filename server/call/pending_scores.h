// Scores of a prompt that wait to be sent, as compact as they came from the engine: as messages
// they would take several times the memory, and a long prompt has a million of them. Owned by a
// write buffer, on its responder's thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "scheduler/request.h"

namespace tessera {

namespace v1 {
class PromptScores;
class TokenLogprob;
}  // namespace v1

// About as it will be on the wire.
int64_t ScoreBytes(const v1::TokenLogprob& score);
int64_t ScoreBytes(const OutputToken& token);

void CopyScore(const OutputToken& token, v1::TokenLogprob* score);

class PendingScores final {
 public:
  explicit PendingScores(std::vector<OutputToken> tokens);

  // Moves the next ones into a message of about `max_bytes`.
  void TakeInto(int64_t max_bytes, v1::PromptScores* message);

  bool empty() const { return begin_ == tokens_.size(); }
  int64_t bytes() const { return bytes_; }  // of what is left

 private:
  std::vector<OutputToken> tokens_;
  size_t begin_ = 0;
  int64_t bytes_ = 0;
};

}  // namespace tessera
