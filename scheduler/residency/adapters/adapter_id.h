// The id by which the scheduler refers to a version of an adapter or of a blend
// (adapter_registry.h), and the holds that keep an id valid. Any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "scheduler/residency/adapters/adapter_hold.h"

namespace tessera {

using AdapterId = int64_t;  // an id is never reused
inline constexpr AdapterId kNoAdapter = -1;

struct ResolvedAdapter {
  AdapterId id = kNoAdapter;
  std::string key;   // name of the adapter's content; part of the prefix root
  AdapterHold hold;  // the id is valid while at least one hold of the version exists
};

// A wait of an operator until an adapter is in the pool. The engine thread calls its functions.
struct AdapterWait {
  // Called once, unless the wait is gone.
  std::function<void(absl::Status)> done;
  // Returns true after the operator has stopped waiting; null: the operator never stops.
  std::function<bool()> gone;
  AdapterHold hold;  // hold of the adapter; may be empty if the caller keeps another hold
};

}  // namespace tessera
