// Options of an adapter registry that takes any files as an adapter, so that tests need no weights.
// Header only; pure functions.
#pragma once

#include "scheduler/residency/adapters/adapter_registry.h"

namespace tessera::testing {

inline constexpr AdapterFacts kAnyFacts = {/*rank=*/2, /*bytes=*/64};

inline AdapterRegistryOptions AnyFiles() {
  AdapterRegistryOptions options;
  options.inspect = [](const AdapterModel&, const AdapterSource&, bool) { return kAnyFacts; };
  return options;
}

}  // namespace tessera::testing
