#include "kernels/cpu/pack_quantized.h"

#include <cstring>

namespace tessera::cpu {
namespace {

// Bytes of one output in a cache line of packed codes. A byte holds one int8 code or two int4
// codes.
constexpr int64_t kStepCols = 4;

ScaleType ScaleTypeOf(DType dtype) {
  if (dtype == DType::kBF16) return ScaleType::kBF16;
  return dtype == DType::kF16 ? ScaleType::kF16 : ScaleType::kF32;
}

// Returns codes [k, k + 4) of a row, one per byte, with zeros after the row's last code.
uint32_t FourCodes(const uint8_t* codes, int64_t cols, int64_t k) {
  uint32_t word = 0;
  if (k < cols) {
    std::memcpy(&word, codes + k, static_cast<size_t>(cols - k < kStepCols ? cols - k : kStepCols));
  }
  return word;
}

void PackCodes(const uint8_t* codes, const QuantShape& shape, int64_t lane, char* panel) {
  const int64_t line_cols = shape.line_cols;
  char* out = panel + kStepCols * lane;
  for (int64_t k = 0; k < shape.cols; k += line_cols, out += kCacheLine) {
    uint32_t word = FourCodes(codes, shape.cols, k);
    if (line_cols > kStepCols) word |= FourCodes(codes, shape.cols, k + kStepCols) << 4;
    std::memcpy(out, &word, sizeof(word));
  }
}

// Stores a scale without rounding. REQUIRES: `type` represents the scale exactly.
void StoreScale(ScaleType type, float scale, int64_t index, char* scales) {
  if (type == ScaleType::kF32) {
    std::memcpy(scales + 4 * index, &scale, sizeof(scale));
    return;
  }
  const uint16_t bits = type == ScaleType::kBF16 ? FloatToBF16(scale) : FloatToF16(scale);
  std::memcpy(scales + 2 * index, &bits, sizeof(bits));
}

float LoadScale(ScaleType type, int64_t index, const char* scales) {
  if (type == ScaleType::kF32) {
    float scale;
    std::memcpy(&scale, scales + 4 * index, sizeof(scale));
    return scale;
  }
  uint16_t bits;
  std::memcpy(&bits, scales + 2 * index, sizeof(bits));
  return type == ScaleType::kBF16 ? BF16ToFloat(bits) : F16ToFloat(bits);
}

}  // namespace

QuantShape NewQuantShape(int64_t cols, const WeightFormat& format, DType scale_dtype) {
  QuantShape shape;
  const int64_t line_cols = ColsPerLine(format.dtype);
  const int64_t lines = CeilDiv(cols, line_cols);
  shape.cols = cols;
  shape.group_size = format.group_size == 0 ? cols : format.group_size;
  shape.rotation = format.rotation;
  shape.line_cols = line_cols;
  shape.num_groups = format.NumGroups(cols);
  shape.group_lines = format.group_size == 0 ? lines : format.group_size / line_cols;
  shape.scales = lines * kCacheLine;
  const int64_t scale_bytes = kPanel * shape.num_groups * DTypeBytes(scale_dtype);
  shape.zeros = format.asymmetric ? shape.scales + scale_bytes : 0;
  shape.scale_type = ScaleTypeOf(scale_dtype);
  shape.symmetric_zero = format.symmetric_zero();
  const int64_t element_bytes =
      format.activations == DType::kBF16 ? DTypeBytes(DType::kF32) : DTypeBytes(DType::kI8);
  shape.row_sums = RoundUp(lines * line_cols * element_bytes, kCacheLine);
  shape.row_scale = shape.row_sums + 4 * shape.num_groups;
  return shape;
}

void PackQuantizedPanel(const PanelRows& rows, const QuantShape& shape, RowQuantizer* quantizer,
                        char* out) {
  for (int64_t lane = 0; lane < kPanel; ++lane) {
    const PanelRow& row = rows[static_cast<size_t>(lane)];
    if (row.part == nullptr) continue;
    quantizer->Load(*row.part, row.row);
    PackCodes(quantizer->codes(), shape, lane, out);
    for (int64_t g = 0; g < shape.num_groups; ++g) {
      const int64_t index = g * kPanel + lane;
      StoreScale(shape.scale_type, quantizer->scales()[g], index, out + shape.scales);
      if (shape.zeros != 0) out[shape.zeros + index] = static_cast<char>(quantizer->zeros()[g]);
    }
  }
}

float QuantElement(const QuantShape& shape, const char* panel, int64_t lane, int64_t k) {
  const uint8_t* const bytes = reinterpret_cast<const uint8_t*>(panel);
  const int64_t index = k / shape.group_size * kPanel + lane;
  const int64_t line_cols = shape.line_cols;
  int32_t code = bytes[k / line_cols * kCacheLine + kStepCols * lane + k % kStepCols];
  if (line_cols > kStepCols) code = k % line_cols < kStepCols ? code & 15 : code >> 4;
  const int32_t zero = shape.zeros != 0 ? bytes[shape.zeros + index] : shape.symmetric_zero;
  return LoadScale(shape.scale_type, index, panel + shape.scales) * static_cast<float>(code - zero);
}

}  // namespace tessera::cpu
