// The memory layout of quantised weights (kernels/device/weight_format.h) and of the token rows
// that are multiplied with them. This header holds only PODs, under the rules of isa_kernels.h.
//
// A panel of 16 outputs is: lines of 64 bytes of codes; then, for each group, the 16 scales; then,
// in asymmetric formats, for each group, the 16 zero points (bytes).
//   A line of int8 codes is [16 outputs][4 k].
//   A line of int4 codes is [16 outputs][4 bytes]: the low nibbles are 4 k, the high nibbles the
//   next 4 k.
//   Five lines of int5 codes are 32 k: four lines with the lower 4 bits of the codes, as int4 codes
//   are, and a line of [8 runs of 4 k][16 outputs][4 k] with the highest bit of each code.
// Codes after the last k, and the codes of outputs after the last, are 0.
//
// A prepared row for int8 activations is: codes (signed bytes, padded with zeros); then the sum of
// the codes of each group (int32); then the scale of the row (fp32).
//
// A prepared row for bf16 activations is: elements, padded with zeros; then, at the place that
// follows fp32 elements, the sum of the elements of each group (fp32). An ISA with a bf16 dot
// product stores the elements as bf16, in the order 0, 2, 1, 3 of each run of four columns; other
// ISAs store fp32 numbers in their own order.
#pragma once

#include <cstdint>

namespace tessera::cpu {

enum class ScaleType : int32_t { kF32, kBF16, kF16 };

struct QuantShape {
  int64_t cols = 0;
  int64_t group_size = 0;  // columns of a group; cols if the whole row is one group
  int64_t num_groups = 0;
  int32_t rotation = 0;     // size of the blocks of columns that are rotated; 0: none
  int64_t line_cols = 0;    // columns of a line, without the lines of highest bits
  int64_t run_lines = 0;    // number of lines between two lines of highest bits; 0: there are none
  int64_t group_lines = 0;  // lines of a group in a panel; the last group may have fewer
  int64_t scales = 0;       // offset in bytes of the scales from the start of a panel
  int64_t zeros = 0;        // offset in bytes of the zero points; 0: the format is symmetric
  ScaleType scale_type = ScaleType::kF32;
  int32_t symmetric_zero = 0;  // the zero point of every group of a symmetric format
  int64_t row_sums = 0;        // offset in bytes of the sums in a prepared row, a multiple of 64
  int64_t row_scale = 0;       // offset in bytes of the scale in a prepared row
};

}  // namespace tessera::cpu
