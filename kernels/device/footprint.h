// Upper bounds of the memory that backends allocate. The memory plan of a device uses them before a
// backend exists. Static assertions compare the CPU backend's constants with the constants here.
// Pure functions; any thread.
#pragma once

#include <cstdint>

#include "kernels/base/types.h"
#include "kernels/device/weight_format.h"

namespace tessera {

inline constexpr int64_t kSmallPageBytes = 4096;
inline constexpr int64_t kLargePageBytes = int64_t{2} << 20;
inline constexpr int64_t kLineBytes = 64;
// The number of outputs in a panel of a packed weight.
inline constexpr int64_t kPackedOutputs = 16;

// The bytes of a buffer of `bytes`: whole memory pages, large pages from kLargePageBytes on.
constexpr int64_t BufferBytes(int64_t bytes) {
  return RoundUp(bytes, bytes >= kLargePageBytes ? kLargePageBytes : kSmallPageBytes);
}

// The bytes that the system commits to a workspace of which `bytes` are written. The system
// commits a memory page when a byte of it is first written; large workspaces use large pages.
constexpr int64_t WorkBytes(int64_t bytes) {
  const bool large = bytes + bytes / 2 >= kLargePageBytes;
  return RoundUp(bytes, large ? kLargePageBytes : kSmallPageBytes);
}

// The bytes of a panel of a quantised weight: its codes, scales and (asymmetric) zero points,
// rounded up to whole cache lines.
constexpr int64_t QuantPanelBytes(int64_t cols, const WeightFormat& format, DType scale_dtype) {
  const int64_t code_bytes = format.dtype == DType::kI8   ? RoundUp<int64_t>(cols, 4)
                             : format.dtype == DType::kI5 ? RoundUp<int64_t>(cols, 32) / 8 * 5
                                                          : RoundUp<int64_t>(cols, 8) / 2;
  const int64_t group_bytes = DTypeBytes(scale_dtype) + (format.asymmetric ? 1 : 0);
  return RoundUp(kPackedOutputs * (code_bytes + format.NumGroups(cols) * group_bytes), kLineBytes);
}

// The bytes of a packed weight of `parts` parts with `rows` outputs each. Every part is padded to
// whole panels. The bound does not hold for the ref backend, which stores each code in a byte.
// `group_scales` is the type of the scales of groups; weights that are quantised at load have bf16.
constexpr int64_t PackedBytes(int64_t parts, int64_t rows, int64_t cols, const WeightFormat& format,
                              DType group_scales = DType::kBF16) {
  const int64_t panels = parts * CeilDiv(rows, kPackedOutputs);
  const DType scale_dtype = format.group_size == 0 ? DType::kF32 : group_scales;
  return BufferBytes(panels * (format.quantized() ? QuantPanelBytes(cols, format, scale_dtype)
                                                  : kPackedOutputs * RoundUp<int64_t>(cols, 2) *
                                                        DTypeBytes(format.dtype)));
}

// The bytes of `rows` rows that Linear has normed, rounded or quantised. A row takes an odd number
// of cache lines: at most those of an fp32 row with a sum for each group of columns, or the three
// lines of a short quantised row.
constexpr int64_t PreparedBytes(int64_t rows, int64_t cols) {
  constexpr int64_t kShortRowLines = 3;
  constexpr int64_t kFloatBytes = DTypeBytes(DType::kF32);
  const int64_t row_lines = CeilDiv(RoundUp<int64_t>(cols, 32) * kFloatBytes, kLineBytes);
  const int64_t sum_bytes = CeilDiv<int64_t>(cols, kGroupGranule) * kFloatBytes;
  const int64_t lines = (row_lines + CeilDiv<int64_t>(sum_bytes + kFloatBytes, kLineBytes)) | 1;
  return WorkBytes(rows * (lines < kShortRowLines ? kShortRowLines : lines) * kLineBytes);
}

}  // namespace tessera
