// What a stream has to say and its reader has not taken yet. One message is in flight at a time;
// the others wait here, and new output of an index is merged into its last waiting message, so that
// a slow reader gets fewer and larger messages instead of a growing queue. Scores of a prompt
// become messages only as they are taken. Owned by a call, on its responder's thread.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "scheduler/request.h"

namespace tessera {

namespace v1 {
class GenerateResponse;
}

class WriteBuffer final {
 public:
  explicit WriteBuffer(int32_t num_indices);
  ~WriteBuffer();

  void Add(v1::GenerateResponse message);
  // Sent as one or more messages like `message`, each with some of the scores.
  void AddPromptScores(v1::GenerateResponse message, std::vector<OutputToken> scores);
  // The oldest message. REQUIRES: !empty().
  v1::GenerateResponse Take();

  bool empty() const { return entries_.empty(); }
  // Of the waiting messages, about as they will be on the wire.
  int64_t bytes() const { return bytes_; }

 private:
  struct Entry;

  std::deque<std::unique_ptr<Entry>> entries_;
  std::vector<Entry*> last_output_;  // per index: the waiting message that takes more; null: none
  int64_t bytes_ = 0;
};

}  // namespace tessera
