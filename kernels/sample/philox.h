// Philox4x32-10, the counter-based random number generator of "Parallel random numbers: as easy as
// 1, 2, 3" (Salmon et al., SC 2011). A random number is a pure function of (counter, key), so a
// sampled token depends on (seed, index, position) and not on the random numbers drawn earlier.
// Any thread.
#pragma once

#include <array>
#include <cstdint>

namespace tessera {

using PhiloxCounter = std::array<uint32_t, 4>;
using PhiloxKey = std::array<uint32_t, 2>;

constexpr PhiloxCounter Philox4x32(PhiloxCounter counter, PhiloxKey key) {
  constexpr int kRounds = 10;
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(product0)};
    key[0] += 0x9E3779B9u;  // 2^32 * (golden ratio - 1)
    key[1] += 0xBB67AE85u;  // 2^32 * (sqrt(3) - 1)
  }
  return counter;
}

// The purpose of a random number. The purpose is part of the counter, so that different uses at one
// position get independent numbers.
enum class RandomUse : uint32_t { kSample = 0 };

// Returns a uniform random number in [0, 1) with 53 random bits.
constexpr double UniformAt(uint64_t seed, int32_t index, int32_t position, RandomUse use) {
  const PhiloxCounter bits =
      Philox4x32({static_cast<uint32_t>(index), static_cast<uint32_t>(position),
                  static_cast<uint32_t>(use), 0u},
                 {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return static_cast<double>(((uint64_t{bits[1]} << 32) | bits[0]) >> 11) * 0x1p-53;
}

}  // namespace tessera
