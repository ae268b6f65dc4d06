#include "scheduler/cost_model.h"

#include <algorithm>
#include <cmath>

namespace tessera {
namespace {

// Steps older than about 1 / (1 - kForgetting) hardly count: machines throttle, neighbours come and
// go.
constexpr double kForgetting = 0.995;
// A wide prior: the first steps decide.
constexpr double kInitialCovariance = 1e4;
// Forgetting blows the covariance up in directions that steps do not visit; this keeps it finite.
constexpr double kMaxCovariance = 1e6;
constexpr double kErrorSmoothing = 0.05;

}  // namespace

CostModel::CostModel() {
  for (int i = 0; i < kNumFeatures; ++i) covariance_[i][i] = kInitialCovariance;
}

// Scaled so that typical values are around one.
CostModel::Vector CostModel::Features(const StepCost& cost) {
  return {1.0,
          static_cast<double>(cost.num_tokens) / 64,
          static_cast<double>(cost.num_segments) / 16,
          static_cast<double>(cost.kv_read_tokens) / 4096,
          static_cast<double>(cost.attention_pairs) / 65536,
          static_cast<double>(cost.num_logit_rows) / 16};
}

double CostModel::PredictUs(const StepCost& cost) const {
  const Vector x = Features(cost);
  double us = 0.0;
  for (int i = 0; i < kNumFeatures; ++i) us += std::max(0.0, weights_[i]) * x[i];
  return std::max(1.0, us);
}

void CostModel::Observe(const StepCost& cost, double measured_us) {
  if (measured_us <= 0.0) return;
  if (fitted()) {
    const double error = std::abs(PredictUs(cost) - measured_us) / measured_us;
    relative_error_ += kErrorSmoothing * (error - relative_error_);
  }
  ++num_observed_;

  const Vector x = Features(cost);
  Vector gain{};
  double denominator = kForgetting;
  double residual = measured_us;
  for (int i = 0; i < kNumFeatures; ++i) {
    for (int j = 0; j < kNumFeatures; ++j) gain[i] += covariance_[i][j] * x[j];
    denominator += x[i] * gain[i];
    residual -= weights_[i] * x[i];
  }
  for (int i = 0; i < kNumFeatures; ++i) weights_[i] += gain[i] / denominator * residual;

  double trace = 0.0;
  for (int i = 0; i < kNumFeatures; ++i) trace += covariance_[i][i];
  const double forget = trace < kMaxCovariance ? kForgetting : 1.0;
  for (int i = 0; i < kNumFeatures; ++i) {
    for (int j = 0; j < kNumFeatures; ++j) {
      covariance_[i][j] = (covariance_[i][j] - gain[i] * gain[j] / denominator) / forget;
    }
  }
}

}  // namespace tessera
