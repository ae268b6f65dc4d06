// From the engine's events of one request to the messages of its stream: detokenisation, stop
// strings, deltas, usage. It decides what is sent and in which order: `accepted` once, prompt
// scores if asked for, outputs, exactly one `finished` per index. Owned by a call, on its
// responder's thread; knows neither the engine nor the transport.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "scheduler/request.h"
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
  std::vector<TokenId> prompt_tail;  // what decides about the output's leading space
  TextStops stops;
};

class StreamOutput final {
 public:
  explicit StreamOutput(StreamOptions options);
  ~StreamOutput();

  void Accept(int64_t prompt_tokens);

  // True when this event's index met a stop string: the engine must be told to end it. Its later
  // tokens are ignored; its `finished` follows the engine's.
  bool OnEvent(TokenEvent event);

  WriteBuffer& buffer() { return buffer_; }
  bool finished() const { return num_unfinished_ == 0; }

 private:
  struct Index;

  bool OnTokens(const TokenEvent& event);
  void OnFinished(const TokenEvent& event);
  // Appends the text that a token settles, stop strings considered; true when one is complete.
  bool AppendTokenText(TokenId token, Index* index, std::string* out) const;
  v1::GenerateResponse NewMessage(int32_t index) const;

  const StreamOptions options_;
  const StopSet stop_set_;
  std::vector<std::unique_ptr<Index>> indices_;
  int32_t num_unfinished_;
  WriteBuffer buffer_;
};

}  // namespace tessera
