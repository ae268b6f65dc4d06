// How much memory the backends take at most: what a plan counts before there is a backend to ask.
// Pure functions. The cpu backend's own constants are held against these where they are defined.
#pragma once

#include <cstdint>

#include "kernels/base/types.h"
#include "kernels/device/weight_format.h"

namespace tessera {

inline constexpr int64_t kSmallPageBytes = 4096;
inline constexpr int64_t kLargePageBytes = int64_t{2} << 20;
inline constexpr int64_t kLineBytes = 64;
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

// A panel of a quantised weight: lines of codes, scales and, if asymmetric, zero points, in whole
// cache lines.
constexpr int64_t QuantPanelBytes(int64_t cols, const WeightFormat& format, DType scale_dtype) {
  const int64_t code_bytes =
      format.dtype == DType::kI8 ? RoundUp<int64_t>(cols, 4) : RoundUp<int64_t>(cols, 8) / 2;
  const int64_t group_bytes = DTypeBytes(scale_dtype) + (format.asymmetric ? 1 : 0);
  return RoundUp(kPackedOutputs * (code_bytes + format.NumGroups(cols) * group_bytes), kLineBytes);
}

// A packed weight of `parts` times `rows` outputs, each part padded for itself, on the backends
// that serve (ref keeps a byte for every code). `group_scales` is the type of the scales of groups;
// ours are bf16.
constexpr int64_t PackedBytes(int64_t parts, int64_t rows, int64_t cols, const WeightFormat& format,
                              DType group_scales = DType::kBF16) {
  const int64_t panels = parts * CeilDiv(rows, kPackedOutputs);
  const DType scale_dtype = format.group_size == 0 ? DType::kF32 : group_scales;
  return BufferBytes(panels * (format.quantized() ? QuantPanelBytes(cols, format, scale_dtype)
                                                  : kPackedOutputs * RoundUp<int64_t>(cols, 2) *
                                                        DTypeBytes(format.dtype)));
}

// Rows that Linear has normed, rounded or quantised: fp32 at most (or, when they are short, a
// quantised row's own lines), an odd number of cache lines each.
constexpr int64_t PreparedBytes(int64_t rows, int64_t cols) {
  constexpr int64_t kShortRowLines = 3;
  const int64_t lines = CeilDiv<int64_t>(cols * DTypeBytes(DType::kF32), kLineBytes) | 1;
  return WorkBytes(rows * (lines < kShortRowLines ? kShortRowLines : lines) * kLineBytes);
}

}  // namespace tessera
