#include "kernels/cpu/pack_quantized.h"

#include <algorithm>
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

// Returns the offset of the line of lower bits that holds column k.
int64_t LineOffset(const QuantShape& shape, int64_t k) {
  const int64_t line = k / shape.line_cols;
  return (line + (shape.run_lines == 0 ? 0 : line / shape.run_lines)) * kCacheLine;
}

// The byte and, in it, the lowest bit that hold the highest bits of columns [k / 4 * 4, k / 4 * 4 +
// 4) of an output.
struct HighBits {
  int64_t offset;
  int shift;
};
HighBits HighBitsOf(const QuantShape& shape, int64_t lane, int64_t k) {
  const int64_t run_cols = shape.run_lines * shape.line_cols;
  const int64_t line = LineOffset(shape, k / run_cols * run_cols) + shape.run_lines * kCacheLine;
  const int64_t bit = (k % run_cols / kStepCols * kPanel + lane) * kStepCols;
  return {line + bit / 8, static_cast<int>(bit % 8)};
}

// Packs the highest bits of four int5 codes, of which `word` has one in each byte.
void PackHighBits(const QuantShape& shape, int64_t lane, int64_t k, uint32_t word, char* panel) {
  uint32_t bits = 0;
  for (int i = 0; i < kStepCols; ++i) bits |= (word >> (8 * i + 4) & 1) << i;
  const HighBits high = HighBitsOf(shape, lane, k);
  panel[high.offset] = static_cast<char>(panel[high.offset] | static_cast<int>(bits << high.shift));
}

void PackCodes(const uint8_t* codes, const QuantShape& shape, int64_t lane, char* panel) {
  const int64_t line_cols = shape.line_cols;
  for (int64_t k = 0; k < shape.cols; k += line_cols) {
    uint32_t word = 0;
    for (int64_t part = 0; part < line_cols; part += kStepCols) {
      uint32_t four = FourCodes(codes, shape.cols, k + part);
      if (shape.run_lines != 0) {
        PackHighBits(shape, lane, k + part, four, panel);
        four &= 0x0f0f0f0fu;
      }
      word |= four << part;  // the second run of four columns has the upper nibbles
    }
    std::memcpy(panel + LineOffset(shape, k) + kStepCols * lane, &word, sizeof(word));
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
  const int64_t lines = NumLines(format.dtype, cols);
  shape.cols = cols;
  shape.group_size = format.group_size == 0 ? cols : format.group_size;
  shape.rotation = format.rotation;
  shape.line_cols = line_cols;
  shape.run_lines = format.dtype == DType::kI5 ? kInt5RunLines : 0;
  shape.num_groups = format.NumGroups(cols);
  shape.group_lines = format.group_size == 0 ? lines : NumLines(format.dtype, format.group_size);
  shape.scales = lines * kCacheLine;
  const int64_t scale_bytes = kPanel * shape.num_groups * DTypeBytes(scale_dtype);
  shape.zeros = format.asymmetric ? shape.scales + scale_bytes : 0;
  shape.scale_type = ScaleTypeOf(scale_dtype);
  shape.symmetric_zero = format.symmetric_zero();
  const int64_t element_bytes =
      format.activations == DType::kBF16 ? DTypeBytes(DType::kF32) : DTypeBytes(DType::kI8);
  const int64_t padded_cols = RoundUp(cols, line_cols * std::max<int64_t>(1, shape.run_lines));
  shape.row_sums = RoundUp(padded_cols * element_bytes, kCacheLine);
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
  int32_t code = bytes[LineOffset(shape, k) + kStepCols * lane + k % kStepCols];
  if (line_cols > kStepCols) code = k % line_cols < kStepCols ? code & 15 : code >> 4;
  if (shape.run_lines != 0) {
    const HighBits high = HighBitsOf(shape, lane, k);
    code |= (bytes[high.offset] >> (high.shift + k % kStepCols) & 1) << 4;
  }
  const int32_t zero = shape.zeros != 0 ? bytes[shape.zeros + index] : shape.symmetric_zero;
  return LoadScale(shape.scale_type, index, panel + shape.scales) * static_cast<float>(code - zero);
}

}  // namespace tessera::cpu
