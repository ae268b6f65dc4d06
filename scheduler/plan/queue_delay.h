// Predicts how long a request that is queued now will wait before its first step.
//
// While slots and pages are free for all that waits, the delay is the time to compute the prompts
// that come first, beside the running streams. Otherwise some sequences must end first. A running
// sequence ends after its predicted number of further tokens (OutputLengths), one token in each
// step; a sequence that takes its place ends after the mean predicted length of the sequences that
// wait. The delay is then the time of the steps up to the last of these ends, plus the time of the
// prompts that the steps compute meanwhile.
//
// The scheduler owns the objects; engine thread only.
#pragma once

#include <cstdint>
#include <vector>

namespace tessera {

// The predicted ends of the running sequences of one model, in a count of steps that starts with
// the model. Add and Remove take a binary search and a move of at most max_num_seqs integers.
class PredictedEnds final {
 public:
  void Add(int64_t step);
  // REQUIRES: Add(step) was called more often than Remove(step).
  void Remove(int64_t step);
  const std::vector<int64_t>& steps() const { return steps_; }  // ascending

 private:
  std::vector<int64_t> steps_;
};

// What one model contributes to the delay.
struct DelayShare {
  double step_us = 0.0;       // a step of the model's running streams without prompts
  double prompts_us = 0.0;    // the prompts that come first, without the fixed time of their steps
  int64_t num_steps = 0;      // the least number of steps in which these prompts are computed
  double most_step_us = 0.0;  // the target time of a step with prompts; 0: no bound
  double life_us = 0.0;       // a waiting sequence from its first step to its end, in steps alone
  bool has_streams = false;
  // Predicted ends, from now, of the sequences that run or are about to run; ascending.
  std::vector<double> ends_us;
};

// The delay if `num_ends` sequences must end first (0: none).
double PredictDelayUs(const std::vector<DelayShare>& models, int64_t num_ends);

// The time until `num_ends` sequences have ended. The sequences that run now end at `ends_us`,
// which ascends; each is followed in its place by sequences that last `life_us`.
// REQUIRES: num_ends >= 1; ends_us is not empty.
double TimeOfEnds(const std::vector<double>& ends_us, double life_us, int64_t num_ends);

}  // namespace tessera
