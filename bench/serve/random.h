// Random numbers that are the same on every machine for a seed: the standard library's engines are
// specified to the bit, its distributions are not.
#pragma once

#include <cmath>
#include <cstdint>

namespace tessera::bench {

// splitmix64. A stream is named by (seed, stream), so that request 7 is the same whatever was drawn
// for the others. One thread.
class Random final {
 public:
  explicit Random(uint64_t seed, uint64_t stream = 0) : state_(Mix(seed) ^ Mix(~stream)) {}

  uint64_t Next() { return Mix(state_ += kStep); }
  // 0 <= x < 1.
  double Uniform() { return static_cast<double>(Next() >> 11) * 0x1.0p-53; }
  // first <= x <= last. REQUIRES: first <= last.
  int64_t Between(int64_t first, int64_t last) {
    const auto count = static_cast<uint64_t>(last - first) + 1;
    const auto wide = static_cast<unsigned __int128>(Next()) * count;
    return first + static_cast<int64_t>(wide >> 64);
  }
  // Of mean 1.
  double Exponential() { return -std::log1p(-Uniform()); }

 private:
  static constexpr uint64_t kStep = 0x9E3779B97F4A7C15u;
  static uint64_t Mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
  }

  uint64_t state_;
};

}  // namespace tessera::bench
