// The parts of a node that take little time to make: options, memory plan, tokenizers and
// templates, backend, registered adapters. A start and `tesserad --check` make the same parts, so
// the check finds what a start would find. Then a start loads the weights and opens the ports, and
// a check reads the values in the files (CheckFiles). Called on main's thread.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "scheduler/device/assemble.h"
#include "server/call/served_model.h"
#include "server/door/identities.h"
#include "server/door/tls.h"

namespace tessera {

namespace v1 {
class Config;
}

struct NodeParts {
  AssembleOptions options;
  MemoryPlan plan;
  std::shared_ptr<const TlsContext> tls;  // null: no TLS
  std::shared_ptr<const Identities> identities;
  std::unique_ptr<ModelRegistry> models;  // without revisions, which need the weights
  DeviceParts device;                     // its registry has the adapters of `adapters.paths`
  // Why adapters in folders of `adapters.paths` are not registered. A start warns, a check fails.
  std::vector<std::string> skipped_adapters;
};

// Makes the parts. Errors say what to change. Calls `on_stage` before each part with what is done
// next, e.g. "loading m: tokenizer"; `on_stage` may end the process.
absl::StatusOr<NodeParts> PrepareNode(
    const v1::Config& config, const std::function<void(const std::string& stage)>& on_stage);

// The memory plan and all computed values as lines of text, without a newline at the end.
std::string DescribePlan(const AssembleOptions& options, const MemoryPlan& plan);

}  // namespace tessera
