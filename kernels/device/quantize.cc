#include "kernels/device/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/base/log.h"

namespace tessera {
namespace {

// The inverse of a smaller scale would overflow, so weights with a smaller scale become zeros.
constexpr float kLeastScale = 1e-35f;

// Rounds to nearest, ties to even. REQUIRES: |x| < 2^22.
float Round(float x) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: the sum has no fraction bits
  return (x + kShift) - kShift;
}

// The range of the weights of a group.
struct Extent {
  float min = 0.0f;    // minimum of the weights and 0
  float max = 0.0f;    // maximum of the weights and 0
  bool finite = true;  // all weights are finite
};

// Lane i has the extent of the weights i, i + kLanes, i + 2 * kLanes, ... The order of the weights
// changes neither an extent nor a probe (0 or NaN), so the compiler may compute lanes in vectors.
struct LaneExtents {
  static constexpr int64_t kLanes = 8;

  void Add(int64_t lane, float weight) {
    min[lane] = weight < min[lane] ? weight : min[lane];
    max[lane] = weight > max[lane] ? weight : max[lane];
    probe[lane] += weight * 0.0f;
  }

  float min[kLanes] = {};
  float max[kLanes] = {};
  float probe[kLanes] = {};  // becomes NaN when a weight is not finite
};

Extent FindExtent(const float* weights, int64_t count) {
  LaneExtents lanes;
  const int64_t whole = count / LaneExtents::kLanes * LaneExtents::kLanes;
  for (int64_t i = 0; i < whole; i += LaneExtents::kLanes) {
    for (int64_t lane = 0; lane < LaneExtents::kLanes; ++lane) lanes.Add(lane, weights[i + lane]);
  }
  for (int64_t i = whole; i < count; ++i) lanes.Add(0, weights[i]);
  Extent extent;
  for (int64_t lane = 0; lane < LaneExtents::kLanes; ++lane) {
    extent.min = std::min(extent.min, lanes.min[lane]);
    extent.max = std::max(extent.max, lanes.max[lane]);
    extent.finite = extent.finite && lanes.probe[lane] == 0.0f;
  }
  return extent;
}

float ReadScale(const void* scales, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::kF32:
      return static_cast<const float*>(scales)[i];
    case DType::kBF16:
      return BF16ToFloat(static_cast<const BF16*>(scales)[i]);
    case DType::kF16:
      return F16ToFloat(static_cast<const F16*>(scales)[i]);
    default:
      break;
  }
  CHECK(false) << " scales of " << DTypeName(dtype);
  return 0.0f;
}

// The stages of strides 1, 2 and 4 of a rotation, on 8 numbers.
void RotateEight(float* x) {
  const float a0 = x[0] + x[1], a1 = x[0] - x[1], a2 = x[2] + x[3], a3 = x[2] - x[3];
  const float a4 = x[4] + x[5], a5 = x[4] - x[5], a6 = x[6] + x[7], a7 = x[6] - x[7];
  const float b0 = a0 + a2, b1 = a1 + a3, b2 = a0 - a2, b3 = a1 - a3;
  const float b4 = a4 + a6, b5 = a5 + a7, b6 = a4 - a6, b7 = a5 - a7;
  x[0] = b0 + b4;
  x[1] = b1 + b5;
  x[2] = b2 + b6;
  x[3] = b3 + b7;
  x[4] = b0 - b4;
  x[5] = b1 - b5;
  x[6] = b2 - b6;
  x[7] = b3 - b7;
}

}  // namespace

void RotateRow(int32_t rotation, int64_t cols, float* row) {
  CHECK(rotation > 0 && RotationOf(rotation) == rotation && cols % rotation == 0)
      << " a rotation of " << rotation << " for " << cols << " columns";
  constexpr int32_t kLanes = 8;
  for (int64_t i = 0; i < cols; i += kLanes) RotateEight(row + i);
  for (float* block = row; block < row + cols; block += rotation) {
    for (int32_t stride = kLanes; stride < rotation; stride *= 2) {
      for (int32_t i = 0; i < rotation; i += 2 * stride) {
        float* const first = block + i;
        float* const second = first + stride;
        for (int32_t lane = 0; lane < stride; ++lane) {
          const float a = first[lane];
          const float b = second[lane];
          first[lane] = a + b;
          second[lane] = a - b;
        }
      }
    }
  }
}

DType ScaleDType(const std::vector<WeightView>& parts, const WeightFormat& format) {
  if (format.group_size == 0) return DType::kF32;
  const auto own = [](const WeightView& part) {
    return part.quantized() ? part.scale_dtype : DType::kBF16;
  };
  const DType first = own(parts[0]);
  for (const WeightView& part : parts) {
    if (own(part) != first) return DType::kF32;
  }
  return first;
}

void LoadWeightRow(const WeightView& view, int64_t row, float* out) {
  const int64_t first = row * view.cols;
  switch (view.dtype) {
    case DType::kF32:
      std::memcpy(out, static_cast<const float*>(view.data) + first,
                  sizeof(float) * static_cast<size_t>(view.cols));
      return;
    case DType::kBF16: {
      const BF16* const in = static_cast<const BF16*>(view.data) + first;
      for (int64_t k = 0; k < view.cols; ++k) out[k] = BF16ToFloat(in[k]);
      return;
    }
    case DType::kF16: {
      const F16* const in = static_cast<const F16*>(view.data) + first;
      for (int64_t k = 0; k < view.cols; ++k) out[k] = F16ToFloat(in[k]);
      return;
    }
    default:
      CHECK(false) << " a weight of " << DTypeName(view.dtype) << " cannot be packed";
  }
}

void RowQuantizer::QuantizeGroup(const float* weights, int64_t count, uint8_t* codes, float* scale,
                                 uint8_t* zero) const {
  const Extent extent = FindExtent(weights, count);
  const float largest = extent.max >= -extent.min ? extent.max : extent.min;
  const float max_code = static_cast<float>(format_.max_code());
  float exact = 0.0f;
  if (format_.asymmetric) {
    // Halving both bounds keeps their difference from overflowing.
    exact = (extent.max * 0.5f - extent.min * 0.5f) / (max_code * 0.5f);
  } else {
    exact = format_.dtype == DType::kI8 ? std::fabs(largest) / 127.0f
                                        : largest / -static_cast<float>(format_.symmetric_zero());
  }
  if (format_.group_size != 0) exact = BF16ToFloat(FloatToBF16(exact));
  *zero = static_cast<uint8_t>(format_.symmetric_zero());
  *scale = extent.finite ? exact : std::numeric_limits<float>::quiet_NaN();
  if (!extent.finite || std::fabs(exact) < kLeastScale) {
    if (extent.finite) *scale = 0.0f;
    std::fill(codes, codes + count, *zero);
    return;
  }
  const float inverse = 1.0f / exact;
  if (format_.asymmetric) {
    *zero = static_cast<uint8_t>(std::clamp(Round(-extent.min * inverse), 0.0f, max_code));
  }
  const float shift = *zero;
  // Symmetric int8 does not use -128, so the grid is symmetric around the zero.
  const float least = !format_.asymmetric && format_.dtype == DType::kI8 ? 1.0f : 0.0f;
  for (int64_t i = 0; i < count; ++i) {
    float code = Round(weights[i] * inverse) + shift;
    code = code < least ? least : code;
    code = code > max_code ? max_code : code;
    codes[i] = static_cast<uint8_t>(static_cast<int32_t>(code));
  }
}

void RowQuantizer::TakeReady(const WeightView& view, int64_t row) {
  CHECK(view.dtype == format_.dtype) << DTypeName(view.dtype);
  CHECK(view.zeros == nullptr || format_.asymmetric);
  CHECK_EQ(format_.rotation, 0) << " ready codes cannot be rotated";
  const int64_t num_groups = static_cast<int64_t>(scales_.size());
  const uint8_t* const codes = static_cast<const uint8_t*>(view.data) + row * view.cols;
  std::copy(codes, codes + view.cols, codes_.begin());
  for (int64_t g = 0; g < num_groups; ++g) {
    const int64_t at = row * num_groups + g;
    scales_[static_cast<size_t>(g)] = ReadScale(view.scales, view.scale_dtype, at);
    zeros_[static_cast<size_t>(g)] =
        view.zeros != nullptr ? view.zeros[at] : static_cast<uint8_t>(format_.symmetric_zero());
  }
}

void RowQuantizer::Load(const WeightView& view, int64_t row) {
  const int64_t cols = view.cols;
  const size_t num_groups = static_cast<size_t>(format_.NumGroups(cols));
  codes_.resize(static_cast<size_t>(cols));
  scales_.resize(num_groups);
  zeros_.resize(num_groups);
  if (view.quantized()) return TakeReady(view, row);
  floats_.resize(static_cast<size_t>(cols));
  LoadWeightRow(view, row, floats_.data());
  if (format_.rotation != 0) {
    RotateRow(format_.rotation, cols, floats_.data());
    const float share = 1.0f / static_cast<float>(format_.rotation);  // a power of two: exact
    for (float& weight : floats_) weight *= share;
  }
  const int64_t group = format_.group_size == 0 ? cols : format_.group_size;
  for (size_t g = 0; g < num_groups; ++g) {
    const int64_t begin = static_cast<int64_t>(g) * group;
    QuantizeGroup(floats_.data() + begin, std::min(group, cols - begin), codes_.data() + begin,
                  &scales_[g], &zeros_[g]);
  }
}

}  // namespace tessera
