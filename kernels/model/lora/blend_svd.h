// Re-compression of a blend of LoRA adapters. A blend that concatenates its adapters has the sum of
// their ranks; a lower rank usually represents it well. The truncated singular value decomposition
// is the nearest matrix of a given rank in the Frobenius norm (Eckart and Young, 1936). Its error
// in that norm is the square root of the sum of the squared singular values that are left out. Pure
// functions; any thread.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/step/adapter_layout.h"

namespace tessera {

// Returns tensors of rank `rank` whose product b' a' is nearest to the input's b diag(scales) a.
// The result's scales are 1. The rank components of the result (columns of b', rows of a') are
// ordered by singular value, largest first; b' and a' each contain the square root of the singular
// value. Components beyond `rows` or `cols` are zeros. The computation is in fp64; the same input
// gives the same bits for any number of threads and any cache size. Returns INVALID_ARGUMENT when a
// number is not finite. REQUIRES: 1 <= rank <= tensors.rank.
absl::StatusOr<LoraTensors> TruncateRank(const LoraTensors& tensors, int64_t rows, int64_t cols,
                                         int32_t rank);

}  // namespace tessera
