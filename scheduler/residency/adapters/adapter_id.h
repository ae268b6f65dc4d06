// What an adapter is called inside: a version of an adapter or a blend (adapter_registry.h), and
// how it is kept from being forgotten.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "scheduler/residency/adapters/adapter_hold.h"

namespace tessera {

using AdapterId = int64_t;  // never reused
inline constexpr AdapterId kNoAdapter = -1;

struct ResolvedAdapter {
  AdapterId id = kNoAdapter;
  std::string key;   // names the content; part of the prefix root
  AdapterHold hold;  // the id means something as long as somebody has one
};

// Who waits until an adapter is in the pool. Called from the engine's thread.
struct AdapterWait {
  std::function<void(absl::Status)> done;  // once, but for waits that are gone
  std::function<bool()> gone;              // nobody waits any more; null: never so
  AdapterHold hold;                        // of the adapter, unless the caller keeps another
};

}  // namespace tessera
