// Puts KV into the pages of a running sequence of a fake engine, as a transfer or a reused chunk
// would, between two steps.
//
// Used by a test, on its thread.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "scheduler/step/engine_core.h"
#include "tests/lib/fake_runner.h"

namespace tessera::testing {

struct KvTarget {
  EngineCore* core = nullptr;
  KvManager* kv = nullptr;       // the core's
  FakeRunner* runner = nullptr;  // the core's
};

// Whether PutKv may be called: the sequence runs, no step computes for it, and at least two of its
// tokens are to be computed.
bool TakesKv(const Sequence& sequence);

// Grows the sequence to `num_computed` tokens, writes what its KV should be, but garbage for
// `holes`, and tells the core. `adapter`: HashOfBytes of its adapter's pages; 0: none. False: the
// pool has no room. REQUIRES: TakesKv and EngineCore::TakeComputed's.
bool PutKv(const KvTarget& target, Sequence* sequence, int64_t num_computed,
           absl::Span<const TokenRange> holes, uint64_t adapter = 0);

}  // namespace tessera::testing
