// Quantised weights in the layout of QuantShape: how codes become panels, and one element back.
// Pure functions; any thread.
#pragma once

#include <array>
#include <cstdint>

#include "kernels/cpu/isa_kernels.h"
#include "kernels/device/quantize.h"
#include "kernels/device/tensor.h"
#include "kernels/device/weight_format.h"

namespace tessera::cpu {

// Columns whose weights of 16 outputs make a line of 64 bytes.
constexpr int64_t ColsPerLine(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return 2;
    case DType::kI8:
      return 4;
    case DType::kI4:
      return 8;
    default:
      return 1;
  }
}

// Where an output of a panel comes from; null: padding.
struct PanelRow {
  const WeightView* part = nullptr;
  int64_t row = 0;
};
using PanelRows = std::array<PanelRow, kPanel>;

QuantShape NewQuantShape(int64_t cols, const WeightFormat& format, DType scale_dtype);

// REQUIRES: `out` has QuantPanelBytes() zeroed bytes.
void PackQuantizedPanel(const PanelRows& rows, const QuantShape& shape, RowQuantizer* quantizer,
                        char* out);

// scale * (code - zero) of output `lane` of a panel.
float QuantElement(const QuantShape& shape, const char* panel, int64_t lane, int64_t k);

}  // namespace tessera::cpu
