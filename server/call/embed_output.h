// Collects the embeddings of one Embed call, which sends one engine request per input. The call
// owns this object and uses it on its responder's thread.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "scheduler/request.h"
#include "server/call/call_log.h"

namespace tessera {

namespace v1 {
class EmbedResponse;
}

class EmbedOutput final {
 public:
  explicit EmbedOutput(int32_t num_inputs);
  ~EmbedOutput();

  void OnEvent(int32_t input, TokenEvent event);
  bool finished() const { return num_unfinished_ == 0; }
  // The first failure of an input; OK while no input has failed.
  const absl::Status& status() const { return status_; }
  const CallTotals& totals() const { return totals_; }
  // REQUIRES: finished() and status().ok().
  const v1::EmbedResponse& response() const { return *response_; }

 private:
  int32_t num_unfinished_;
  absl::Status status_;
  CallTotals totals_;
  std::unique_ptr<v1::EmbedResponse> response_;
};

}  // namespace tessera
