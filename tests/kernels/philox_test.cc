// Compares Philox4x32 with the known answers in Random123's kat_vectors for philox4x32, 10 rounds.
#include "kernels/sample/philox.h"

#include <gtest/gtest.h>

namespace tessera {
namespace {

TEST(Philox, KnownAnswers) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}),
            (PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, UniformIsInRangeAndDependsOnEachArgument) {
  const double base = UniformAt(1, 2, 3, RandomUse::kSample);
  EXPECT_EQ(base, UniformAt(1, 2, 3, RandomUse::kSample));
  EXPECT_NE(base, UniformAt(uint64_t{1} << 32, 2, 3, RandomUse::kSample));
  EXPECT_NE(base, UniformAt(2, 2, 3, RandomUse::kSample));
  EXPECT_NE(base, UniformAt(1, 3, 3, RandomUse::kSample));
  EXPECT_NE(base, UniformAt(1, 2, 4, RandomUse::kSample));
  double sum = 0.0;
  constexpr int kNumDraws = 10000;
  for (int i = 0; i < kNumDraws; ++i) {
    const double uniform = UniformAt(7, 0, i, RandomUse::kSample);
    ASSERT_GE(uniform, 0.0);
    ASSERT_LT(uniform, 1.0);
    sum += uniform;
  }
  EXPECT_NEAR(sum / kNumDraws, 0.5, 0.01);  // 3.5 standard deviations
}

}  // namespace
}  // namespace tessera
