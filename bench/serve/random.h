// Random numbers that depend on the seed alone and not on the machine. The distributions of the
// standard library do not guarantee that.
#pragma once

#include <cmath>
#include <cstdint>

namespace tessera::bench {

// The generator splitmix64. (seed, stream) names a stream of numbers, so that a request with its
// own stream does not depend on the numbers that other requests drew. One thread.
class Random final {
 public:
  explicit Random(uint64_t seed, uint64_t stream = 0) : state_(Mix(seed) ^ Mix(~stream)) {}

  uint64_t Next() { return Mix(state_ += kStep); }
  // A uniform number with 0 <= x < 1.
  double Uniform() { return static_cast<double>(Next() >> 11) * 0x1.0p-53; }
  // A uniform integer with first <= x <= last. REQUIRES: first <= last.
  int64_t Between(int64_t first, int64_t last) {
    const auto count = static_cast<uint64_t>(last - first) + 1;
    const auto wide = static_cast<unsigned __int128>(Next()) * count;
    return first + static_cast<int64_t>(wide >> 64);
  }
  // An exponentially distributed number with mean 1.
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
