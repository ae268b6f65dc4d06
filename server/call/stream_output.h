// Turns the engine's events of one request into the messages of its stream: detokenisation, stop
// strings, text deltas, usage. The messages are, in this order: one `accepted`, prompt scores if
// the request asks for them, outputs, exactly one `finished` per index. A call owns this object and
// uses it on its responder's thread; the class depends on neither the engine nor the transport.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "scheduler/request.h"
#include "server/call/call_log.h"
#include "server/call/params.h"
#include "server/call/write_buffer.h"
#include "server/text/tokenizer/stop_matcher.h"

namespace tessera {

struct ServedModel;

struct StreamOptions {
  std::string request_id;
  const ServedModel* model = nullptr;
  int32_t n = 1;
  bool has_logprobs = false;
  bool skip_special_tokens = true;  // leaves special tokens out of the text
  // The last tokens of the prompt. The detokenizer needs them to decide whether the output starts
  // with a space.
  std::vector<TokenId> prompt_tail;
  TextStops stops;
};

class StreamOutput final {
 public:
  explicit StreamOutput(StreamOptions options);
  ~StreamOutput();

  void Accept(int64_t prompt_tokens);

  // Returns true when this event completes a stop string of its index: the caller must then cancel
  // that index in the engine. Later tokens of the index are ignored, and its `finished` message is
  // sent when the engine reports the index finished.
  bool OnEvent(TokenEvent event);

  WriteBuffer& buffer() { return buffer_; }
  bool finished() const { return num_unfinished_ == 0; }
  // What the sequences have done so far.
  CallTotals totals() const;

 private:
  struct Index;

  bool OnTokens(const TokenEvent& event);
  void OnFinished(const TokenEvent& event);
  // Appends the text that is final with this token to *out. Returns true when a stop string is
  // complete.
  bool AppendTokenText(TokenId token, Index* index, std::string* out) const;
  // Returns the stop string that is the text of this special token; null if there is none.
  const std::string* SpecialStop(std::optional<TokenId> id) const;
  // The text that is left when an index ends without a stop string in its text.
  std::string RestOfText(const TokenEvent& finished, Index* index) const;
  v1::GenerateResponse NewMessage(int32_t index) const;

  const StreamOptions options_;
  const StopSet stop_set_;
  std::vector<std::unique_ptr<Index>> indices_;
  int32_t num_unfinished_;
  CallTotals totals_;  // without the completion tokens, which the indices count
  WriteBuffer buffer_;
};

}  // namespace tessera
