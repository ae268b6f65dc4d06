// Turns the bytes of a request into engine requests: strict parsing, validation, chat template,
// tokenisation. This is the costly part of a call. It may run on any thread except gRPC's threads,
// because the models do not change and the registries of adapters and calls are thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
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

struct PrepareOptions {
  // The processor time for the rendering of a chat, if it is shorter than the model's
  // template_time. After this time, the result is `needs_time`.
  absl::Duration render_time = absl::InfiniteDuration();
  // The request id that an earlier Prepare of the same call registered; empty: none.
  std::string request_id;
  std::string tenant;  // whose requests these are
};

struct PreparedCall {
  // When the status is not OK, only `status`, `request_id` and `needs_time` are valid.
  absl::Status status;
  // The rendering took longer than PrepareOptions::render_time, and the status is an error. The
  // call should be prepared again with more time.
  bool needs_time = false;
  const ServedModel* model = nullptr;
  // The request id that is registered in LiveCalls; empty if none was registered.
  std::string request_id;
  // Generate and Chat have one request, Embed has one request per input. The responder sets the id,
  // sink and arrival time of each request.
  std::vector<std::unique_ptr<Request>> requests;
  TextStops stops;
  bool skip_special_tokens = true;  // the output text has no special tokens
  // The complete answer of Tokenize and Detokenize; null for the other methods.
  std::unique_ptr<google::protobuf::Message> reply;

  PreparedCall();
  ~PreparedCall();
  PreparedCall(PreparedCall&&) noexcept;
  PreparedCall& operator=(PreparedCall&&) noexcept;
};

// Registers the request id for `call` in `live` before the rest of the request is validated.
PreparedCall Prepare(Method method, const std::string& bytes, uint64_t call,
                     const ModelRegistry& models, AdapterRegistry* adapters, LiveCalls* live,
                     const PrepareOptions& options = {});

}  // namespace tessera
