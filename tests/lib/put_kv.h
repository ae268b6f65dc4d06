// Writes KV to the pages of a running sequence of an engine with a FakeRunner between two steps, as
// a transfer or the reuse of a chunk does. A test calls these functions on its own thread.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "scheduler/step/engine_core.h"
#include "tests/lib/fake_runner.h"

namespace tessera::testing {

struct KvTarget {
  EngineCore* core = nullptr;
  KvManager* kv = nullptr;       // owned by the core
  FakeRunner* runner = nullptr;  // owned by the core
};

// Returns whether PutKv may be called: the sequence is running, no step in flight computes tokens
// of the sequence, and at least two of its tokens have yet to be computed.
bool TakesKv(const Sequence& sequence);

// Grows the sequence to num_computed tokens, writes their correct KV (garbage for tokens in
// `holes`), and calls EngineCore::TakeComputed. `adapter` is HashOfBytes of the pages of the
// sequence's adapter, or 0 without an adapter. Returns false if the pool has not enough pages.
// REQUIRES: TakesKv(*sequence), and the requirements of EngineCore::TakeComputed.
bool PutKv(const KvTarget& target, Sequence* sequence, int64_t num_computed,
           absl::Span<const TokenRange> holes, uint64_t adapter = 0);

}  // namespace tessera::testing
