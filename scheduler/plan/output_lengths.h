// Predicts how many tokens a request will generate, from its max_tokens and from the finished
// requests of the model. Requests are divided into classes by the size of their max_tokens, because
// a client that asks for few tokens mostly gets them all, and a client that sets no limit mostly
// gets far fewer than the context allows. A class remembers the mean share of max_tokens that its
// requests generated.
//
// The scheduler owns one object for each served model; engine thread only.
#pragma once

#include <array>
#include <cstdint>

namespace tessera {

class OutputLengths final {
 public:
  // A request with this max_tokens has generated `num_generated` tokens and has ended.
  // REQUIRES: 1 <= num_generated, 1 <= max_tokens.
  void Observe(int64_t max_tokens, int64_t num_generated);

  // The predicted number of tokens that a request will generate in all: between 1 and max_tokens.
  // `num_generated`: the number that it has generated so far; the result exceeds this number unless
  // max_tokens forbids it.
  int64_t Expect(int64_t max_tokens, int64_t num_generated) const;

 private:
  struct Class {
    double mean_share = 0.0;  // of num_generated / max_tokens, the recent requests weigh most
    int64_t num_observed = 0;
  };
  static constexpr int kNumClasses = 64;
  static int ClassOf(int64_t max_tokens);

  std::array<Class, kNumClasses> classes_{};
};

}  // namespace tessera
