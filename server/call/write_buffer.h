// The messages of a stream that wait to be written. Only one message is in flight at a time. New
// output of an index is merged into the last waiting message of that index, so that a slow reader
// gets fewer and larger messages instead of a growing queue. Prompt scores are converted to
// messages only when they are taken. A call owns the buffer and uses it on its responder's thread.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "scheduler/request.h"

namespace tessera {

class Tokenizer;

namespace v1 {
class GenerateResponse;
}

class WriteBuffer final {
 public:
  explicit WriteBuffer(int32_t num_indices);
  ~WriteBuffer();

  void Add(v1::GenerateResponse message);
  // Adds prompt scores, which Take returns as one or more copies of `message`, each with a part of
  // the scores. REQUIRES: *tokenizer outlives the buffer.
  void AddPromptScores(v1::GenerateResponse message, std::vector<OutputToken> scores,
                       const Tokenizer* tokenizer);
  // Removes and returns the oldest message. REQUIRES: !empty().
  v1::GenerateResponse Take();

  bool empty() const { return entries_.empty(); }
  // Approximate wire bytes of the waiting messages.
  int64_t bytes() const { return bytes_; }

 private:
  struct Entry;

  std::deque<std::unique_ptr<Entry>> entries_;
  // For each index, the waiting message into which new output is merged; null: none.
  std::vector<Entry*> last_output_;
  int64_t bytes_ = 0;
};

}  // namespace tessera
