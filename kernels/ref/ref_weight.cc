#include "kernels/ref/ref_weight.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <utility>

#include "kernels/base/log.h"
#include "kernels/device/quantize.h"
#include "kernels/ref/ref_math.h"

namespace tessera::ref {
namespace {

struct FreeDeleter {
  void operator()(void* data) const { std::free(data); }
};
using Memory = std::unique_ptr<char, FreeDeleter>;

Memory AllocateZeroed(int64_t bytes) {
  return Memory(
      static_cast<char*>(std::calloc(static_cast<size_t>(std::max<int64_t>(bytes, 1)), 1)));
}

// A weight of floats in panels of kPanel outputs: element (n, k) lies at index ((n / kPanel) * K +
// k) * kPanel + n % kPanel. This lets the compiler vectorise over outputs, while each output is
// still summed in ascending order of k.
class FloatWeight final : public RefWeight {
 public:
  FloatWeight(int64_t rows, int64_t cols, const WeightFormat& format)
      : RefWeight(rows, cols, format), memory_(AllocateZeroed(NumBytes())) {}

  bool allocated() const { return memory_ != nullptr; }
  size_t bytes() const override { return static_cast<size_t>(NumBytes()); }
  void LoadRow(int64_t n, float* out) const override {
    for (int64_t k = 0; k < cols_; ++k) out[k] = LoadElement(dtype(), memory_.get(), Index(n, k));
  }

  void Multiply(float* x, float* y) const override {
    for (int64_t k = 0; k < cols_; ++k) x[k] = RoundTo(dtype(), x[k]);
    for (int64_t n = 0; n < rows_; n += kPanel) {
      if (dtype() == DType::kF32) {
        MultiplyPanel<double>(reinterpret_cast<const float*>(memory_.get()) + n * cols_, x, y + n,
                              [](float w) { return w; });
      } else {
        MultiplyPanel<float>(reinterpret_cast<const BF16*>(memory_.get()) + n * cols_, x, y + n,
                             BF16ToFloat);
      }
    }
  }

 protected:
  void SetRow(int64_t n, const WeightView& part, int64_t row) override {
    row_.resize(static_cast<size_t>(cols_));
    LoadWeightRow(part, row, row_.data());
    for (int64_t k = 0; k < cols_; ++k) {
      StoreElement(dtype(), row_[static_cast<size_t>(k)], memory_.get(), Index(n, k));
    }
  }

 private:
  int64_t NumBytes() const { return PaddedRows() * cols_ * DTypeBytes(dtype()); }
  int64_t Index(int64_t n, int64_t k) const {
    return ((n / kPanel) * cols_ + k) * kPanel + n % kPanel;
  }

  // Sums in `Sum`: products of fp32 weights are exact in double.
  template <class Sum, class T, class ToFloat>
  void MultiplyPanel(const T* panel, const float* x, float* y, const ToFloat& to_float) const {
    Sum sums[kPanel] = {};
    for (int64_t k = 0; k < cols_; ++k) {
      const Sum value = x[k];
      for (int64_t i = 0; i < kPanel; ++i) sums[i] += value * to_float(panel[k * kPanel + i]);
    }
    for (int64_t i = 0; i < kPanel; ++i) y[i] = static_cast<float>(sums[i]);
  }

  Memory memory_;
  std::vector<float> row_;
};

// A quantised weight with separate arrays of codes, scales and zeros, row by row. Computes the
// formulas of kernels/device/weight_format.h.
class QuantizedWeight final : public RefWeight {
 public:
  QuantizedWeight(int64_t rows, int64_t cols, const WeightFormat& format)
      : RefWeight(rows, cols, format),
        num_groups_(format.NumGroups(cols)),
        group_(format.group_size == 0 ? cols : format.group_size),
        codes_(AllocateZeroed(rows * cols)),
        zeros_(AllocateZeroed(rows * num_groups_)),
        scales_(AllocateZeroed(rows * num_groups_ * DTypeBytes(DType::kF32))),
        quantizer_(format) {}

  bool allocated() const { return codes_ != nullptr && zeros_ != nullptr && scales_ != nullptr; }
  size_t bytes() const override {
    return static_cast<size_t>(rows_ * (cols_ + num_groups_ * (1 + DTypeBytes(DType::kF32))));
  }
  void LoadRow(int64_t n, float* out) const override {
    for (int64_t k = 0; k < cols_; ++k) {
      const int64_t g = k / group_;
      out[k] = scale(n, g) * static_cast<float>(code(n, k) - zero(n, g));
    }
    if (format_.rotation != 0) RotateRow(format_.rotation, cols_, out);
  }

  void Multiply(float* x, float* y) const override {
    if (format_.activations == DType::kBF16) return MultiplyRounded(x, y);
    std::vector<int32_t> codes(static_cast<size_t>(cols_));
    if (format_.rotation != 0) RotateRow(format_.rotation, cols_, x);
    const float row_scale = QuantizeRow(x, cols_, codes.data());
    for (int64_t n = 0; n < rows_; ++n) {
      float sum = 0.0f;
      for (int64_t g = 0; g < num_groups_; ++g) {
        int32_t dot = 0;
        const int64_t end = std::min(cols_, (g + 1) * group_);
        for (int64_t k = g * group_; k < end; ++k) {
          dot += (code(n, k) - zero(n, g)) * codes[static_cast<size_t>(k)];
        }
        sum = std::fma(scale(n, g), static_cast<float>(dot), sum);
      }
      y[n] = sum * row_scale;
    }
  }

 protected:
  void SetRow(int64_t n, const WeightView& part, int64_t row) override {
    quantizer_.Load(part, row);
    std::copy(quantizer_.codes(), quantizer_.codes() + cols_, Bytes(codes_) + n * cols_);
    std::copy(quantizer_.zeros(), quantizer_.zeros() + num_groups_,
              Bytes(zeros_) + n * num_groups_);
    std::copy(quantizer_.scales(), quantizer_.scales() + num_groups_,
              reinterpret_cast<float*>(scales_.get()) + n * num_groups_);
  }

 private:
  void MultiplyRounded(float* x, float* y) const {
    for (int64_t k = 0; k < cols_; ++k) x[k] = RoundTo(DType::kBF16, x[k]);
    for (int64_t n = 0; n < rows_; ++n) {
      double sum = 0.0;
      for (int64_t g = 0; g < num_groups_; ++g) {
        double dot = 0.0;
        const int64_t end = std::min(cols_, (g + 1) * group_);
        for (int64_t k = g * group_; k < end; ++k) dot += (code(n, k) - zero(n, g)) * double{x[k]};
        sum += double{scale(n, g)} * dot;
      }
      y[n] = static_cast<float>(sum);
    }
  }

  static uint8_t* Bytes(const Memory& memory) { return reinterpret_cast<uint8_t*>(memory.get()); }
  int32_t code(int64_t n, int64_t k) const { return Bytes(codes_)[n * cols_ + k]; }
  int32_t zero(int64_t n, int64_t g) const { return Bytes(zeros_)[n * num_groups_ + g]; }
  float scale(int64_t n, int64_t g) const {
    return reinterpret_cast<const float*>(scales_.get())[n * num_groups_ + g];
  }

  const int64_t num_groups_;
  const int64_t group_;
  Memory codes_;   // [rows, cols]
  Memory zeros_;   // [rows, groups]
  Memory scales_;  // [rows, groups]
  RowQuantizer quantizer_;
};

template <class Weight>
std::unique_ptr<RefWeight> NewWeight(int64_t rows, int64_t cols, const WeightFormat& format) {
  auto weight = std::make_unique<Weight>(rows, cols, format);
  if (!weight->allocated()) return nullptr;
  return weight;
}

}  // namespace

std::unique_ptr<RefWeight> RefWeight::Create(const std::vector<WeightView>& parts,
                                             const WeightFormat& format, bool interleave_gate) {
  CHECK(!parts.empty());
  CHECK(format.valid()) << DTypeName(format.dtype) << " in groups of " << format.group_size;
  CHECK(!interleave_gate || (parts.size() == 2 && parts[0].rows == parts[1].rows));
  const int64_t cols = parts[0].cols;
  CHECK(!format.quantized() || cols <= kMaxQuantizedCols) << cols;
  int64_t rows = 0;
  for (const WeightView& part : parts) {
    CHECK_EQ(part.cols, cols);
    rows += part.rows;
  }
  auto weight = format.quantized() ? NewWeight<QuantizedWeight>(rows, cols, format)
                                   : NewWeight<FloatWeight>(rows, cols, format);
  if (weight == nullptr) return nullptr;
  int64_t row_begin = 0;
  for (size_t p = 0; p < parts.size(); ++p) {
    for (int64_t n = 0; n < parts[p].rows; ++n) {
      weight->SetRow(interleave_gate ? 2 * n + static_cast<int64_t>(p) : row_begin + n, parts[p],
                     n);
    }
    row_begin += parts[p].rows;
  }
  return weight;
}

}  // namespace tessera::ref
