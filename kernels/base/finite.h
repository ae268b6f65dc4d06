// Finds NaN and infinity among numbers as a file stores them. A weight that is not finite makes
// every result that depends on it meaningless, so whoever loads weights refuses them. Pure
// functions; any thread.
#pragma once

#include <cstdint>

#include "kernels/base/types.h"

namespace tessera {

// Whether no element is NaN or infinite. Costs about as much as reading the bytes from the cache.
// `data` [count] may be unaligned. REQUIRES: dtype is kF32, kBF16 or kF16.
bool AllFinite(const char* data, int64_t count, DType dtype);

// The index of the first element that is NaN or infinite; `count` if there is none. Slow. REQUIRES:
// as AllFinite.
int64_t FirstNonFinite(const char* data, int64_t count, DType dtype);

}  // namespace tessera
