// Packs quantised weights into panels with the layout of QuantShape, and reads single elements
// back. Pure functions; any thread.
#pragma once

#include <array>
#include <cstdint>

#include "kernels/cpu/isa_kernels.h"
#include "kernels/device/quantize.h"
#include "kernels/device/tensor.h"
#include "kernels/device/weight_format.h"

namespace tessera::cpu {

inline constexpr int64_t kInt5RunLines = 4;  // lines between two lines of highest bits

// Returns the number of columns in a line of 64 bytes, which holds the weights of 16 outputs.
constexpr int64_t ColsPerLine(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return 2;
    case DType::kI8:
      return 4;
    case DType::kI5:
    case DType::kI4:
      return 8;
    default:
      return 1;
  }
}

// Returns the number of lines of `cols` columns of a panel.
constexpr int64_t NumLines(DType dtype, int64_t cols) {
  const int64_t lines = CeilDiv(cols, ColsPerLine(dtype));
  return dtype == DType::kI5 ? CeilDiv(lines, kInt5RunLines) * (kInt5RunLines + 1) : lines;
}

// The row of a checkpoint tensor that becomes an output of a panel. If `part` is null, the output
// is padding.
struct PanelRow {
  const WeightView* part = nullptr;
  int64_t row = 0;
};
using PanelRows = std::array<PanelRow, kPanel>;

QuantShape NewQuantShape(int64_t cols, const WeightFormat& format, DType scale_dtype);

// Quantises the rows and packs them into one panel. REQUIRES: `out` has QuantPanelBytes() bytes,
// all 0.
void PackQuantizedPanel(const PanelRows& rows, const QuantShape& shape, RowQuantizer* quantizer,
                        char* out);

// Returns the weight scale * (code - zero) of column k of output `lane` of a panel, which is still
// rotated if the shape has a rotation.
float QuantElement(const QuantShape& shape, const char* panel, int64_t lane, int64_t k);

}  // namespace tessera::cpu
