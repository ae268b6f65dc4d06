// Bounds the rate of events: a bucket of `burst` tokens that refills with `rate` tokens per second.
// The caller supplies the time. One thread.
#pragma once

#include <algorithm>
#include <cstdint>

namespace tessera {

class TokenBucket final {
 public:
  // The bucket is full at first.
  TokenBucket(double rate, double burst, int64_t now_us)
      : rate_(rate), burst_(burst), tokens_(burst), last_us_(now_us) {}

  // Takes one token. Returns false if there is none.
  bool Take(int64_t now_us) {
    Refill(now_us);
    if (tokens_ < 1) return false;
    tokens_ -= 1;
    return true;
  }
  // Takes tokens even if there are too few: the bucket is then in debt until it has refilled.
  void Force(double tokens) { tokens_ -= tokens; }
  bool InDebt(int64_t now_us) {
    Refill(now_us);
    return tokens_ < 0;
  }
  // Adds tokens, up to the size of the bucket.
  void Add(double tokens) { tokens_ = std::min(burst_, tokens_ + tokens); }

 private:
  void Refill(int64_t now_us) {
    tokens_ = std::min(burst_, tokens_ + rate_ * 1e-6 * static_cast<double>(now_us - last_us_));
    last_us_ = now_us;
  }

  const double rate_;
  const double burst_;
  double tokens_;
  int64_t last_us_;
};

}  // namespace tessera
