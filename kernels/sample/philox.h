// Philox4x32-10, the counter-based random numbers of "Parallel random numbers: as easy as 1, 2, 3"
// (Salmon et al., SC 2011): a pure function of (counter, key), so a sampled token depends on (seed,
// index, position) and on nothing that ran before it.
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
    key[0] += 0x9E3779B9u;  // the golden ratio
    key[1] += 0xBB67AE85u;  // sqrt(3) - 1
  }
  return counter;
}

// What a random number is for; part of the counter.
enum class RandomUse : uint32_t { kSample = 0 };

// Uniform in [0, 1), 53 random bits.
constexpr double UniformAt(uint64_t seed, int32_t index, int32_t position, RandomUse use) {
  const PhiloxCounter bits =
      Philox4x32({static_cast<uint32_t>(index), static_cast<uint32_t>(position),
                  static_cast<uint32_t>(use), 0u},
                 {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return static_cast<double>(((uint64_t{bits[1]} << 32) | bits[0]) >> 11) * 0x1p-53;
}

}  // namespace tessera
