// Re-compression of a blend. Adapters side by side have the sum of their ranks; what they say
// together mostly needs less. The nearest matrix of a given rank, in the Frobenius norm, is the
// truncated singular value decomposition (Eckart and Young, 1936), and what is lost is the root of
// the sum of the squares of the singular values left out. Pure; any thread.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/step/adapter_layout.h"

namespace tessera {

// The tensors of rank `rank` whose product is nearest to `tensors`': b' a' ~ b diag(scales) a, with
// scales of 1 and the singular values shared equally by b' and a', largest first. Ranks beyond
// `rows` or `cols` are zeros. Computed in fp64; the same input gives the same bits, whatever the
// machine's threads and caches. INVALID_ARGUMENT when some number is not finite.
// REQUIRES: 1 <= rank <= tensors.rank.
absl::StatusOr<LoraTensors> TruncateRank(const LoraTensors& tensors, int64_t rows, int64_t cols,
                                         int32_t rank);

}  // namespace tessera
