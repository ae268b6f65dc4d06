// From a request's bytes to what the engine takes: strict parsing, validation, chat template,
// tokenisation. The costly part of a call; it depends on constant data only, so it may run on any
// thread but gRPC's.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "scheduler/request.h"
#include "server/call/params.h"

namespace google::protobuf {
class Message;
}

namespace tessera {

class AdapterRegistry;
class LiveCalls;
class ModelRegistry;
struct ServedModel;

enum class Method : int { kGenerate, kChat, kEmbed, kTokenize, kDetokenize };

struct PreparedCall {
  absl::Status status;  // when not OK, only request_id counts besides
  const ServedModel* model = nullptr;
  std::string request_id;  // registered in LiveCalls; empty when it never was
  // One for Generate and Chat, one per input for Embed. Without id, sink and arrival.
  std::vector<std::unique_ptr<Request>> requests;
  TextStops stops;
  // Tokenize and Detokenize: the whole answer.
  std::unique_ptr<google::protobuf::Message> reply;

  PreparedCall();
  ~PreparedCall();
  PreparedCall(PreparedCall&&) noexcept;
  PreparedCall& operator=(PreparedCall&&) noexcept;
};

// Registers the request's name for `call` as soon as it is known.
PreparedCall Prepare(Method method, const std::string& bytes, uint64_t call,
                     const ModelRegistry& models, AdapterRegistry* adapters, LiveCalls* live);

}  // namespace tessera
