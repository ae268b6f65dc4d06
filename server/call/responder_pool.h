// All responders of a server. The number of a call determines its responder. The methods are
// thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "server/call/prepare_lanes.h"
#include "server/call/responder.h"
#include "server/call/serving.h"

namespace tessera {

class ResponderPool final {
 public:
  ResponderPool(int32_t num_threads, int64_t preparer_bytes, ServingContext* context)
      : lanes_(preparer_bytes, context->clock) {
    for (int32_t i = 0; i < num_threads; ++i) {
      responders_.push_back(std::make_unique<Responder>(context, &lanes_));
    }
  }

  Responder& Of(uint64_t call) { return *responders_[call % responders_.size()]; }
  void CancelAll() {
    for (const auto& responder : responders_) responder->CancelAll();
  }

 private:
  PrepareLanes lanes_;  // outlive the responders
  std::vector<std::unique_ptr<Responder>> responders_;
};

}  // namespace tessera
