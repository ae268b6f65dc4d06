// What must hold bit for bit on every backend that promises batch invariance, whatever the numbers:
// each function runs an op in two ways that mean the same and compares. Used for `ref` and for each
// instruction set of `cpu`.
#pragma once

#include "tests/lib/op_fixtures.h"

namespace tessera::testing {

// Runs cut into more runs (empty ones too) give the same bits.
void ExpectRunsDoNotShow(Backend* backend, const AttentionCase& attention, uint64_t seed);

// The same keys in pages of another size, at other places, give the same bits.
void ExpectPagesDoNotShow(Backend* backend, const AttentionCase& attention, int page_tokens,
                          uint64_t seed);

// Each segment in chunks of `chunk` rows, alone in its batch, gives the bits of all of them at
// once: chunked = whole and alone = in a batch. REQUIRES: a case whose extra streams end before the
// segment's own rows (as BuildBatch makes them).
void ExpectChunksDoNotShow(Backend* backend, const AttentionCase& attention, int chunk,
                           uint64_t seed);

// A row alone gives the bits of the row in a batch.
void ExpectRowsAreIndependent(Backend* backend, const LinearCase& linear, uint64_t seed);

// Copy, RopeShift and Gather on all groups of the case's pool do what PageOp states; bytes that
// they do not name stay.
void ExpectPageOpsWork(Backend* backend, const AttentionCase& attention, uint64_t seed);

}  // namespace tessera::testing
