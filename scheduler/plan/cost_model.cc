#include "scheduler/plan/cost_model.h"

#include <algorithm>
#include <cmath>

namespace tessera {
namespace {

// The prior is wide, so the first steps determine the coefficients.
constexpr double kInitialCovariance = 1e4;
// Each step adds this to every coefficient's variance, in units of a step's noise, because a
// machine's speed drifts (throttling, other processes). Steps older than about 1 / sqrt(kDrift) =
// 200 hardly count. Unlike exponential forgetting, this drift does not erase what was learnt about
// a feature while no step has that feature.
constexpr double kDrift = 2.5e-5;
constexpr double kErrorSmoothing = 0.05;

}  // namespace

StepCost& StepCost::operator+=(const StepCost& other) {
  num_tokens += other.num_tokens;
  num_segments += other.num_segments;
  kv_read_tokens += other.kv_read_tokens;
  attention_pairs += other.attention_pairs;
  num_logit_rows += other.num_logit_rows;
  adapter_slabs += other.adapter_slabs;
  adapter_slab_rows += other.adapter_slab_rows;
  return *this;
}

StepCost& StepCost::operator-=(const StepCost& other) {
  num_tokens -= other.num_tokens;
  num_segments -= other.num_segments;
  kv_read_tokens -= other.kv_read_tokens;
  attention_pairs -= other.attention_pairs;
  num_logit_rows -= other.num_logit_rows;
  adapter_slabs -= other.adapter_slabs;
  adapter_slab_rows -= other.adapter_slab_rows;
  return *this;
}

// Full chunk i ends at token (i + 1) * step_tokens, so the sums are arithmetic series.
StepCost PrefillCost(int64_t num_tokens, int64_t step_tokens) {
  const int64_t num_full = num_tokens / step_tokens;
  const int64_t rest = num_tokens % step_tokens;
  StepCost cost;
  cost.num_tokens = num_tokens;
  cost.num_segments = num_full + (rest > 0 ? 1 : 0);
  cost.kv_read_tokens = step_tokens * num_full * (num_full + 1) / 2 + (rest > 0 ? num_tokens : 0);
  cost.attention_pairs =
      step_tokens * step_tokens * num_full * (num_full + 1) / 2 + rest * num_tokens;
  cost.num_logit_rows = cost.num_segments;
  return cost;
}

CostModel::CostModel() {
  for (int i = 0; i < kNumFeatures; ++i) covariance_[i][i] = kInitialCovariance;
}

// The divisors scale each feature so that its typical values are around one.
CostModel::Vector CostModel::Features(const StepCost& cost, int64_t num_steps) {
  return {static_cast<double>(num_steps),
          static_cast<double>(cost.num_tokens) / 64,
          static_cast<double>(cost.num_segments) / 16,
          static_cast<double>(cost.kv_read_tokens) / 4096,
          static_cast<double>(cost.attention_pairs) / 65536,
          static_cast<double>(cost.num_logit_rows) / 16,
          static_cast<double>(cost.adapter_slabs) / 256,
          static_cast<double>(cost.adapter_slab_rows) / 4096};
}

double CostModel::PredictUs(const StepCost& cost, int64_t num_steps) const {
  const Vector x = Features(cost, num_steps);
  double us = 0.0;
  for (int i = 0; i < kNumFeatures; ++i) us += std::max(0.0, weights_[i]) * x[i];
  return std::max(static_cast<double>(num_steps), us);
}

void CostModel::Observe(const StepCost& cost, double measured_us) {
  if (measured_us <= 0.0) return;
  if (fitted()) {
    const double error = std::abs(PredictUs(cost) - measured_us) / measured_us;
    relative_error_ += kErrorSmoothing * (error - relative_error_);
  }
  ++num_observed_;

  const Vector x = Features(cost, 1);
  Vector gain{};
  double denominator = 1.0;
  double residual = measured_us;
  for (int i = 0; i < kNumFeatures; ++i) {
    for (int j = 0; j < kNumFeatures; ++j) gain[i] += covariance_[i][j] * x[j];
    denominator += x[i] * gain[i];
    residual -= weights_[i] * x[i];
  }
  for (int i = 0; i < kNumFeatures; ++i) weights_[i] += gain[i] / denominator * residual;

  for (int i = 0; i < kNumFeatures; ++i) {
    for (int j = 0; j < kNumFeatures; ++j) covariance_[i][j] -= gain[i] * gain[j] / denominator;
    covariance_[i][i] += kDrift;
  }
}

}  // namespace tessera
