// Tests of finding NaN and infinity among stored numbers.
#include "kernels/base/finite.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

namespace tessera {
namespace {

constexpr float kLargest = std::numeric_limits<float>::max();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::string Stored(float value, DType dtype) {
  const BF16 half = dtype == DType::kBF16 ? FloatToBF16(value) : FloatToF16(value);
  std::string bytes(static_cast<size_t>(DTypeBytes(dtype)), '\0');
  std::memcpy(bytes.data(), dtype == DType::kF32 ? static_cast<const void*>(&value) : &half,
              bytes.size());
  return bytes;
}

// `count` finite numbers, the largest of their type among them, after one byte that makes their
// place unaligned.
std::string Numbers(int64_t count, DType dtype) {
  const float most = dtype == DType::kF32 ? kLargest : dtype == DType::kF16 ? 65504.0f : 3.38e38f;
  std::string bytes = "x";
  for (int64_t i = 0; i < count; ++i) {
    bytes += Stored(i % 3 == 0 ? most : i % 3 == 1 ? -most : 0.0f, dtype);
  }
  return bytes;
}

class FiniteTest : public ::testing::TestWithParam<DType> {};

TEST_P(FiniteTest, LargeNumbersAreFinite) {
  for (const int64_t count : {0, 1, 31, 32, 63, 64, 65, 1000}) {
    const std::string numbers = Numbers(count, GetParam());
    EXPECT_TRUE(AllFinite(numbers.data() + 1, count, GetParam())) << count;
    EXPECT_EQ(FirstNonFinite(numbers.data() + 1, count, GetParam()), count);
  }
}

TEST_P(FiniteTest, EveryPlaceCounts) {
  const size_t width = static_cast<size_t>(DTypeBytes(GetParam()));
  for (const float bad : {std::nanf(""), -std::nanf(""), kInfinity, -kInfinity}) {
    for (const int64_t count : {1, 64, 201}) {
      for (int64_t at = 0; at < count; ++at) {
        std::string numbers = Numbers(count, GetParam());
        numbers.replace(1 + static_cast<size_t>(at) * width, width, Stored(bad, GetParam()));
        EXPECT_FALSE(AllFinite(numbers.data() + 1, count, GetParam())) << bad << " at " << at;
        EXPECT_EQ(FirstNonFinite(numbers.data() + 1, count, GetParam()), at);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, FiniteTest,
                         ::testing::Values(DType::kF32, DType::kBF16, DType::kF16),
                         [](const auto& info) { return std::string(DTypeName(info.param)); });

// The lower half of a float32 may have any bits.
TEST(Finite, TheLowerHalfOfAFloatIsNoExponent) {
  const std::vector<uint32_t> bits(100, 0x3f807fffu);
  EXPECT_TRUE(AllFinite(reinterpret_cast<const char*>(bits.data()), 100, DType::kF32));
}

}  // namespace
}  // namespace tessera
