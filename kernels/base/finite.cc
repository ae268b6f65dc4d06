#include "kernels/base/finite.h"

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "kernels/base/log.h"

namespace tessera {
namespace {

constexpr int kVectors = 4;  // independent maxima, so that one need not wait for another
constexpr int64_t kBlockBytes = kVectors * sizeof(__m256i);
constexpr int16_t kMagnitude = 0x7fff;  // the bits of a word that are not the sign

// The exponent's bits in the upper 16 bits of a number. All of them are ones in NaN and infinity,
// so the magnitude of these 16 bits, as an integer, is then at least this, and else below it.
int16_t ExponentOf(DType dtype) {
  CHECK(dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16) << DTypeName(dtype);
  return dtype == DType::kF16 ? 0x7c00 : 0x7f80;
}

// The largest magnitude of the upper 16 bits of the numbers in whole blocks of kBlockBytes.
[[gnu::target("avx2")]] int16_t LargestMagnitude(const char* data, int64_t bytes, DType dtype) {
  // Of a number of 32 bits only the upper word counts.
  const __m256i mask = dtype == DType::kF32 ? _mm256_set1_epi32(int32_t{kMagnitude} << 16)
                                            : _mm256_set1_epi16(kMagnitude);
  __m256i largest[kVectors] = {};
  for (int64_t at = 0; at + kBlockBytes <= bytes; at += kBlockBytes) {
    for (int i = 0; i < kVectors; ++i) {
      __m256i words;
      std::memcpy(&words, data + at + i * sizeof(words), sizeof(words));
      largest[i] = _mm256_max_epi16(largest[i], _mm256_and_si256(words, mask));
    }
  }
  int16_t lanes[kBlockBytes / sizeof(int16_t)];
  std::memcpy(lanes, largest, sizeof(lanes));
  return *std::max_element(std::begin(lanes), std::end(lanes));
}

}  // namespace

bool AllFinite(const char* data, int64_t count, DType dtype) {
  const int64_t bytes = count * DTypeBytes(dtype);
  const int64_t in_blocks = __builtin_cpu_supports("avx2") ? bytes / kBlockBytes * kBlockBytes : 0;
  if (in_blocks > 0 && LargestMagnitude(data, in_blocks, dtype) >= ExponentOf(dtype)) return false;
  const int64_t rest = (bytes - in_blocks) / DTypeBytes(dtype);
  return FirstNonFinite(data + in_blocks, rest, dtype) == rest;
}

int64_t FirstNonFinite(const char* data, int64_t count, DType dtype) {
  const int16_t exponent = ExponentOf(dtype);
  const int64_t width = DTypeBytes(dtype);
  for (int64_t i = 0; i < count; ++i) {
    int16_t upper;
    std::memcpy(&upper, data + (i + 1) * width - sizeof(upper), sizeof(upper));
    if ((upper & kMagnitude) >= exponent) return i;
  }
  return count;
}

}  // namespace tessera
