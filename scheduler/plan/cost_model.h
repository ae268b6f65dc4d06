// Predicts how long a step of one model takes. The model of the cost is a linear function of the
// step's size, in microseconds. A Kalman filter with randomly walking coefficients fits the
// function to measured steps (Haykin, Adaptive Filter Theory, ch. 14): it is recursive least
// squares that forgets only where new steps carry information. Admission, chunk sizing, the queue
// delay and eviction all use this prediction.
//
// The scheduler owns one cost model for each served model; engine thread only.
#pragma once

#include <array>
#include <cstdint>

namespace tessera {

// The size of a step, or the sum of the sizes of several steps.
struct StepCost {
  int64_t num_tokens = 0;
  int64_t num_segments = 0;
  int64_t kv_read_tokens = 0;   // sum over segments of their context length
  int64_t attention_pairs = 0;  // sum over segments of query tokens x context length
  int64_t num_logit_rows = 0;
  int64_t adapter_slabs = 0;      // sum over the distinct adapters: a step reads each once
  int64_t adapter_slab_rows = 0;  // sum over segments of query tokens x slabs of their adapter

  // Add or remove steps from a sum that is passed to CostModel::PredictUs.
  StepCost& operator+=(const StepCost& other);
  StepCost& operator-=(const StepCost& other);

  friend bool operator==(const StepCost&, const StepCost&) = default;

  void AddSegment(int64_t num_query_tokens, int64_t context_length, int64_t logit_rows) {
    num_tokens += num_query_tokens;
    ++num_segments;
    kv_read_tokens += context_length;
    attention_pairs += num_query_tokens * context_length;
    num_logit_rows += logit_rows;
  }
  // Adds the adapter of a segment. `is_new`: no earlier segment of the step has this adapter.
  void AddAdapter(int64_t num_query_tokens, int64_t slabs, bool is_new) {
    if (is_new) adapter_slabs += slabs;
    adapter_slab_rows += num_query_tokens * slabs;
  }
};

// The sum over the steps that compute a prompt alone in chunks of `step_tokens`. The number of
// steps is the result's num_segments.
StepCost PrefillCost(int64_t num_tokens, int64_t step_tokens);

class CostModel {
 public:
  CostModel();

  // Predicted microseconds, at least 1 per step. Negative coefficients count as zero, so more work
  // never predicts less time. For several steps, pass the sum of their costs and their number.
  double PredictUs(const StepCost& cost, int64_t num_steps = 1) const;

  // Learns from a finished step.
  void Observe(const StepCost& cost, double measured_us);

  // False while too few steps were observed to trust a prediction.
  bool fitted() const { return num_observed_ >= kMinObserved; }
  // Mean relative error of the predictions made before each observation, exponentially weighted.
  double relative_error() const { return relative_error_; }

 private:
  static constexpr int kNumFeatures = 8;
  static constexpr int kMinObserved = 4;
  using Vector = std::array<double, kNumFeatures>;

  static Vector Features(const StepCost& cost, int64_t num_steps);

  Vector weights_{};
  std::array<Vector, kNumFeatures> covariance_{};
  int64_t num_observed_ = 0;
  double relative_error_ = 0.0;
};

}  // namespace tessera
