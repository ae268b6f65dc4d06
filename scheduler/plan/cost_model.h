// What a step costs, learnt from real steps of one model: microseconds as a linear function of the
// step's size, fitted by a Kalman filter of randomly walking coefficients (Haykin, Adaptive Filter
// Theory, ch. 14): recursive least squares that forgets only where steps teach something new.
// Admission, chunk sizing, the queue delay, eviction and later routing ask this one place. Engine
// thread only.
#pragma once

#include <array>
#include <cstdint>

namespace tessera {

struct StepCost {
  int64_t num_tokens = 0;
  int64_t num_segments = 0;
  int64_t kv_read_tokens = 0;   // sum over segments of their context length
  int64_t attention_pairs = 0;  // sum over segments of query tokens x context length
  int64_t num_logit_rows = 0;
  int64_t adapter_slabs = 0;      // of the distinct adapters: each is read once
  int64_t adapter_slab_rows = 0;  // sum over segments of query tokens x slabs of their adapter

  // Sums over steps, for CostModel::PredictUs of several.
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
  // A segment's adapter. is_new: no segment before it has the same.
  void AddAdapter(int64_t num_query_tokens, int64_t slabs, bool is_new) {
    if (is_new) adapter_slabs += slabs;
    adapter_slab_rows += num_query_tokens * slabs;
  }
};

// The sum over the steps that compute a prompt alone in chunks of `step_tokens`: as many steps as
// it has segments.
StepCost PrefillCost(int64_t num_tokens, int64_t step_tokens);

class CostModel {
 public:
  CostModel();

  // Predicted microseconds, at least 1 a step. Coefficients that came out negative count as zero,
  // so more work never predicts less time. Of several steps: their sum and their number.
  double PredictUs(const StepCost& cost, int64_t num_steps = 1) const;

  // Learns from a finished step.
  void Observe(const StepCost& cost, double measured_us);

  // False until enough steps were seen to trust a prediction.
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
