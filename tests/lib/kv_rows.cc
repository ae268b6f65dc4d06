#include "tests/lib/kv_rows.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace tessera::testing {
namespace {

// x := H x for the Hadamard matrix H of `size`, which is [[H', H'], [H', -H']] with the matrix H'
// of half the size.
void Hadamard(float* x, size_t size) {
  if (size == 1) return;
  Hadamard(x, size / 2);
  Hadamard(x + size / 2, size / 2);
  for (size_t i = 0; i < size / 2; ++i) {
    const float a = x[i];
    const float b = x[i + size / 2];
    x[i] = a + b;
    x[i + size / 2] = a - b;
  }
}

// Returns H x for blocks of the largest power of two from 16 to 128 that divides the size, or H x
// divided by that power; x if there is none.
std::vector<float> Rotated(std::vector<float> x, bool divided) {
  size_t block = 128;
  while (block >= 16 && x.size() % block != 0) block /= 2;
  if (block < 16) return x;
  for (size_t i = 0; i < x.size(); i += block) Hadamard(x.data() + i, block);
  for (float& number : x) number /= divided ? static_cast<float>(block) : 1.0f;
  return x;
}

void StoreScale(const GroupLayout& layout, float scale, char* head, int token) {
  const int64_t row_bytes = (layout.head_dim + 15) / 16 * 16;
  std::memcpy(head + layout.page_tokens * row_bytes + token * 4, &scale, sizeof(scale));
}

void StoreInt8(const GroupLayout& layout, const std::vector<float>& numbers, char* head,
               int token) {
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
  const int64_t row_bytes = (layout.head_dim + 15) / 16 * 16;
  char* const row = head + token * row_bytes;
  std::memset(row, 0, row_bytes);
  for (size_t d = 0; !zeros && d < numbers.size(); ++d) {
    row[d] = static_cast<char>(std::lrint(numbers[d] * codes_per_unit));
  }
  StoreScale(layout, scale, head, token);
}

}  // namespace

std::vector<float> LoadKvRow(const GroupLayout& layout, const char* head, int token, int part) {
  std::vector<float> numbers(layout.head_dim);
  float scale = 1.0f;
  const char* row = head + token * layout.row_bytes();
  if (layout.dtype == DType::kI8) {
    std::memcpy(&scale, head + layout.page_tokens * layout.row_bytes() + token * 4, sizeof(scale));
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
  const bool rotated = layout.dtype == DType::kI8 && part == 0;
  return rotated ? Rotated(numbers, true) : numbers;
}

void StoreKvRow(const GroupLayout& layout, const std::vector<float>& numbers, char* head, int token,
                int part) {
  if (layout.dtype == DType::kI8) {
    return StoreInt8(layout, part == 0 ? Rotated(numbers, false) : numbers, head, token);
  }
  char* const row = head + token * layout.row_bytes();
  for (int d = 0; d < layout.head_dim; ++d) {
    if (layout.dtype == DType::kBF16) {
      reinterpret_cast<BF16*>(row)[d] = FloatToBF16(numbers[d]);
    } else {
      reinterpret_cast<float*>(row)[d] = numbers[d];
    }
  }
}

std::vector<float> AsStored(const GroupLayout& layout, const std::vector<float>& numbers,
                            int part) {
  std::vector<char> head(layout.head_stride());
  StoreKvRow(layout, numbers, head.data(), 0, part);
  return LoadKvRow(layout, head.data(), 0, part);
}

std::vector<char> KvRowBytes(const GroupLayout& layout, const char* head, int token) {
  std::vector<char> bytes;
  for (const GroupLayout::TokenArray& array : layout.token_arrays()) {
    const char* const element = head + array.offset + token * array.element_bytes;
    bytes.insert(bytes.end(), element, element + array.element_bytes);
  }
  return bytes;
}

}  // namespace tessera::testing
