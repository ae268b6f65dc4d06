// How much memory the backends take at most: what a plan counts before there is a backend to ask.
// Pure functions. The cpu backend's own constants are held against these where they are defined.
#pragma once

#include <cstdint>

#include "kernels/base/types.h"

namespace tessera {

inline constexpr int64_t kSmallPageBytes = 4096;
inline constexpr int64_t kLargePageBytes = int64_t{2} << 20;
// Outputs that weights are packed by.
inline constexpr int64_t kPackedOutputs = 16;

// A buffer: whole pages, large ones where it is larger than one.
constexpr int64_t BufferBytes(int64_t bytes) {
  return RoundUp(bytes, bytes >= kLargePageBytes ? kLargePageBytes : kSmallPageBytes);
}

// Working space of which `bytes` are written. It is reserved half again as large, and a page of
// the whole is taken as soon as a byte of it is written.
constexpr int64_t WorkBytes(int64_t bytes) {
  const bool large = bytes + bytes / 2 >= kLargePageBytes;
  return RoundUp(bytes, large ? kLargePageBytes : kSmallPageBytes);
}

// A packed weight of `parts` times `rows` outputs, each part padded for itself.
constexpr int64_t PackedBytes(int64_t parts, int64_t rows, int64_t cols, DType dtype) {
  const int64_t elements = RoundUp(rows, kPackedOutputs) * RoundUp<int64_t>(cols, 2);
  return BufferBytes(parts * elements * DTypeBytes(dtype));
}

// Rows that Linear has normed or rounded: fp32 at most, an odd number of cache lines each.
constexpr int64_t PreparedBytes(int64_t rows, int64_t cols) {
  constexpr int64_t kLine = 64;
  const int64_t lines = CeilDiv<int64_t>(cols * DTypeBytes(DType::kF32), kLine) | 1;
  return WorkBytes(rows * lines * kLine);
}

}  // namespace tessera
