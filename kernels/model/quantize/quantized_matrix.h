// A weight matrix in codes, and the functions that choose the codes. Every group of a row has a
// scale (and a zero point in an asymmetric format), which is found by a search; then the row is
// rounded with feedback (input_moments.h). Pure functions; the calling thread owns the data.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/base/thread_team.h"
#include "kernels/base/types.h"
#include "kernels/device/tensor.h"
#include "kernels/device/weight_format.h"
#include "kernels/model/quantize/input_moments.h"
#include "kernels/model/quantize/matrix_products.h"

namespace tessera {

struct QuantizedMatrix {
  int64_t rows = 0;
  int64_t cols = 0;
  WeightFormat format;         // kI4 or kI8; the groups divide the columns
  std::vector<uint8_t> codes;  // [rows, cols]
  std::vector<BF16> scales;    // [rows, groups]
  std::vector<uint8_t> zeros;  // [rows, groups] if asymmetric, else empty

  int64_t num_groups() const { return format.NumGroups(cols); }
  float Value(int64_t row, int64_t col) const {
    const int64_t group = format.group_size == 0 ? 0 : col / format.group_size;
    const auto at = static_cast<size_t>(row * num_groups() + group);
    const int zero = zeros.empty() ? format.symmetric_zero() : zeros[at];
    return BF16ToFloat(scales[at]) *
           static_cast<float>(codes[static_cast<size_t>(row * cols + col)] - zero);
  }
  // Rows [begin, end) as Backend::Pack takes them. The matrix must outlive the view.
  WeightView View(int64_t begin, int64_t end) const;
};

// Chooses the scale and the zero point of each group of `weights` [rows, cols] and sets no codes.
// Of several shares of the group's range, it takes the one with the least sum of importance *
// (error of rounding)^2. `importance` [cols] are the inputs' second moments.
void SearchGrids(const std::vector<float>& weights, const std::vector<float>& importance,
                 ThreadTeam* team, QuantizedMatrix* matrix);

// Rounds `weights` [rows, cols] to the grids of `matrix`, one column after the other in `order`,
// with the feedback [cols, cols] of FeedbackOf. Returns false if there is not enough memory.
[[nodiscard]] bool RoundWithFeedback(const std::vector<float>& weights,
                                     const std::vector<int32_t>& order,
                                     const std::vector<float>& feedback, MatrixProducts* products,
                                     ThreadTeam* team, QuantizedMatrix* matrix);

}  // namespace tessera
