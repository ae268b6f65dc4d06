#include "tests/lib/kv_rows.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace tessera::testing {
namespace {

void StoreInt8(const GroupLayout& layout, const std::vector<float>& numbers, char* row) {
  float max = 0.0f;
  bool finite = true;
  for (const float x : numbers) {
    finite = finite && std::isfinite(x);
    max = std::fmax(max, std::fabs(x));
  }
  const bool zeros = !finite || max < 1e-30f;
  float scale = max / 127.0f;
  if (zeros) scale = finite ? 0.0f : std::numeric_limits<float>::quiet_NaN();
  const float codes_per_unit = 127.0f / max;
  std::memset(row, 0, layout.token_stride());
  for (size_t d = 0; !zeros && d < numbers.size(); ++d) {
    row[d] = static_cast<char>(std::lrint(numbers[d] * codes_per_unit));
  }
  std::memcpy(row + layout.token_stride() - sizeof(scale), &scale, sizeof(scale));
}

}  // namespace

std::vector<float> LoadKvRow(const GroupLayout& layout, const char* row) {
  std::vector<float> numbers(layout.head_dim);
  float scale = 1.0f;
  if (layout.dtype == DType::kI8) {
    std::memcpy(&scale, row + layout.token_stride() - sizeof(scale), sizeof(scale));
  }
  for (int d = 0; d < layout.head_dim; ++d) {
    switch (layout.dtype) {
      case DType::kI8:
        numbers[d] = static_cast<float>(static_cast<signed char>(row[d])) * scale;
        break;
      case DType::kBF16:
        numbers[d] = BF16ToFloat(reinterpret_cast<const BF16*>(row)[d]);
        break;
      default:
        numbers[d] = reinterpret_cast<const float*>(row)[d];
    }
  }
  return numbers;
}

void StoreKvRow(const GroupLayout& layout, const std::vector<float>& numbers, char* row) {
  if (layout.dtype == DType::kI8) return StoreInt8(layout, numbers, row);
  for (int d = 0; d < layout.head_dim; ++d) {
    if (layout.dtype == DType::kBF16) {
      reinterpret_cast<BF16*>(row)[d] = FloatToBF16(numbers[d]);
    } else {
      reinterpret_cast<float*>(row)[d] = numbers[d];
    }
  }
}

std::vector<float> AsStored(const GroupLayout& layout, const std::vector<float>& numbers) {
  std::vector<char> row(layout.token_stride());
  StoreKvRow(layout, numbers, row.data());
  return LoadKvRow(layout, row.data());
}

}  // namespace tessera::testing
