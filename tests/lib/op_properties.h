// Properties that every batch-invariant backend must have bit for bit. Each function runs an op in
// two equivalent ways and compares the results. The tests of `ref` and of each instruction set of
// `cpu` call these functions.
#pragma once

#include "tests/lib/op_fixtures.h"

namespace tessera::testing {

// Expects the same bits if runs are cut into more runs, some of them empty.
void ExpectRunsDoNotShow(Backend* backend, const AttentionCase& attention, uint64_t seed);

// Expects the same bits if the same keys lie in pages of another size and at other places.
void ExpectPagesDoNotShow(Backend* backend, const AttentionCase& attention, int page_tokens,
                          uint64_t seed);

// Expects the same bits from the whole batch and from chunks of `chunk` rows of one segment, each
// alone in its batch. REQUIRES: the additional streams of a segment end before its own rows, as in
// batches of BuildBatch.
void ExpectChunksDoNotShow(Backend* backend, const AttentionCase& attention, int chunk,
                           uint64_t seed);

// Expects the same bits from a row alone and from the row in a batch.
void ExpectRowsAreIndependent(Backend* backend, const LinearCase& linear, uint64_t seed);

// Expects that kCopy, kRopeShift and kGather do what PageOp states, in all groups of the case's
// pool, and that they change no other bytes.
void ExpectPageOpsWork(Backend* backend, const AttentionCase& attention, uint64_t seed);

}  // namespace tessera::testing
