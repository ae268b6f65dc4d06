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
  // Takes tokens even if there are too few: the bucket is then in debt until it has refilled. The
  // debt is `burst` at most, so it ends within burst / rate seconds.
  void Force(double tokens, int64_t now_us) {
    Refill(now_us);
    tokens_ = std::max(tokens_ - tokens, -burst_);
  }
  bool InDebt(int64_t now_us) const { return TokensAt(now_us) < 0; }
  // Adds tokens, up to the size of the bucket.
  void Add(double tokens) { tokens_ = std::min(burst_, tokens_ + tokens); }

 private:
  double TokensAt(int64_t now_us) const {
    return std::min(burst_, tokens_ + rate_ * 1e-6 * static_cast<double>(now_us - last_us_));
  }
  void Refill(int64_t now_us) {
    tokens_ = TokensAt(now_us);
    last_us_ = now_us;
  }

  const double rate_;
  const double burst_;
  double tokens_;
  int64_t last_us_;
};

}  // namespace tessera
