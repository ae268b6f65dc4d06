#include "kernels/model/quantize/quantize_model.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "kernels/device/backend.h"
#include "kernels/device/quantize.h"
#include "kernels/model/checkpoint/stored_matrix.h"
#include "kernels/model/checkpoint/weight_table.h"
#include "kernels/model/checkpoint/weights.h"
#include "kernels/model/model.h"
#include "kernels/model/quantize/input_moments.h"
#include "kernels/model/quantize/matrix_products.h"
#include "kernels/model/quantize/quantizing_backend.h"
#include "kernels/model/whole_sequences.h"

namespace tessera {
namespace {

constexpr int32_t kPageTokens = 16;
constexpr int64_t kChunkRows = 2048;  // rows whose moments are added at once
constexpr int64_t kTransposeCols = 16;
constexpr int32_t kGroupSizes[] = {128, 64, 32};  // in the order of preference

absl::Status NoMemory(absl::string_view what) {
  return absl::ResourceExhaustedError(
      absl::StrCat("not enough memory for ", what, "; lower --tokens"));
}

bool IsQuantizedRole(WeightRole role) {
  return role == WeightRole::kQkv || role == WeightRole::kOut || role == WeightRole::kGateUp ||
         role == WeightRole::kDown;
}

// x * rsqrt(mean(x^2) + eps) * weight, in place.
void NormRow(const std::vector<float>& weight, float eps, float* row) {
  double squares = 0.0;
  for (size_t i = 0; i < weight.size(); ++i) squares += double{row[i]} * row[i];
  const double mean = squares / static_cast<double>(weight.size());
  const auto factor = static_cast<float>(1.0 / std::sqrt(mean + double{eps}));
  for (size_t i = 0; i < weight.size(); ++i) row[i] *= factor * weight[i];
}

// Sum over rows of row (matrix) row^T.
absl::StatusOr<double> QuadraticForm(const std::vector<float>& rows, const InputMoments& inputs,
                                     MatrixProducts* products) {
  const int64_t size = inputs.size;
  std::vector<float> images(rows.size(), 0.0f);
  // The moments are symmetric, so their rows are their columns.
  if (!products->Add(rows.data(), static_cast<int64_t>(rows.size()) / size, inputs.moments.data(),
                     size, size, images.data())) {
    return NoMemory("the error of a matrix");
  }
  double sum = 0.0;
  for (size_t i = 0; i < rows.size(); ++i) sum += double{rows[i]} * images[i];
  return sum;
}

QuantizedMatrix RowsOf(const QuantizedMatrix& matrix, int64_t begin, int64_t end) {
  QuantizedMatrix part;
  part.rows = end - begin;
  part.cols = matrix.cols;
  part.format = matrix.format;
  part.codes.assign(matrix.codes.begin() + begin * matrix.cols,
                    matrix.codes.begin() + end * matrix.cols);
  const int64_t groups = matrix.num_groups();
  part.scales.assign(matrix.scales.begin() + begin * groups, matrix.scales.begin() + end * groups);
  if (!matrix.zeros.empty()) {
    part.zeros.assign(matrix.zeros.begin() + begin * groups, matrix.zeros.begin() + end * groups);
  }
  return part;
}

class Quantizer final {
 public:
  Quantizer(const ModelSpec& spec, const Checkpoint& checkpoint, const QuantizeOptions& options,
            ThreadTeam* team,
            const std::function<absl::Status(const std::string&, const QuantizedMatrix&)>& take)
      : spec_(spec), checkpoint_(checkpoint), options_(options), team_(team), take_(take) {}

  absl::Status Prepare() {
    ASSIGN_OR_RETURN(format_, QuantizeFormatOf(spec_, options_.format));
    std::string error;
    plain_ = NewBackend(options_.backend, team_, /*comm=*/nullptr, &error);
    if (plain_ == nullptr) return absl::InvalidArgumentError(error);
    product_backend_ = NewBackend(options_.backend, team_, /*comm=*/nullptr, &error);
    products_ = std::make_unique<MatrixProducts>(product_backend_.get());
    backend_ = std::make_unique<QuantizingBackend>(plain_.get());
    backend_->set_quantize([this](const LinearArgs& args) { return Quantize(args); });
    return absl::OkStatus();
  }

  absl::Status Run(const std::vector<std::vector<TokenId>>& sequences,
                   const std::function<void(const QuantizeProgress&)>& progress) {
    RETURN_IF_ERROR(LoadModel(sequences));
    int32_t longest = 0;
    for (const auto& sequence : sequences) {
      longest = std::max(longest, static_cast<int32_t>(sequence.size()));
    }
    std::vector<std::vector<TokenId>> twice = sequences;
    twice.insert(twice.end(), sequences.begin(), sequences.end());
    WholeSequences run(plain_.get(), MakePageLayout(spec_, DType::kF32, kPageTokens),
                       static_cast<int32_t>(twice.size()), longest);
    if (!run.allocated()) return NoMemory("the keys and values of the calibration text");
    run.Begin(model_.get(), twice);
    for (int32_t layer = 0; layer < spec_.num_layers; ++layer) {
      worst_error_ = 0.0;
      model_->RunLayers(layer, layer + 1);
      RETURN_IF_ERROR(status_);
      if (progress != nullptr) progress({layer + 1, spec_.num_layers, worst_error_});
    }
    return checkpoint_.CheckIntact();
  }

 private:
  // A fused weight of a layer.
  struct Place {
    FusedWeight weight;
    int layer = 0;
  };

  absl::Status LoadModel(const std::vector<std::vector<TokenId>>& sequences) {
    int64_t num_tokens = 0;
    for (const auto& sequence : sequences) {
      num_tokens += static_cast<int64_t>(sequence.size());
      for (const TokenId id : sequence) {
        if (id >= 0 && id < spec_.vocab_size) continue;
        return absl::InvalidArgumentError(absl::StrCat("the calibration text has the token id ", id,
                                                       ", but the model's ids are 0 "
                                                       "to ",
                                                       spec_.vocab_size - 1,
                                                       "; use the model's own tokenizer"));
      }
    }
    WeightOptions load;
    load.team = team_;
    ASSIGN_OR_RETURN(ModelWeights weights, LoadWeights(spec_, checkpoint_, backend_.get(), load));
    for (const FusedWeight& weight : PresentWeights(spec_)) {
      if (!IsQuantizedRole(weight.role)) continue;
      for (int layer = 0; layer < spec_.num_layers; ++layer) {
        places_[PackedOf(weights.layers[static_cast<size_t>(layer)], weight.role)] = {weight,
                                                                                      layer};
        widest_ = std::max(widest_, DimSize(weight.rows[0]->cols, spec_));
      }
    }
    backend_->set_widest_input(widest_);
    ASSIGN_OR_RETURN(model_, Model::Create(backend_.get(), spec_, std::move(weights),
                                           {static_cast<int32_t>(2 * num_tokens), 1}));
    return absl::OkStatus();
  }

  static const PackedWeight* PackedOf(const LayerWeights& layer, WeightRole role) {
    switch (role) {
      case WeightRole::kQkv:
        return layer.qkv.get();
      case WeightRole::kOut:
        return layer.out.get();
      case WeightRole::kGateUp:
        return layer.gate_up.get();
      default:
        return layer.down.get();
    }
  }

  // Quantises the weight of a Linear. Sets status_ and returns null on an error.
  std::unique_ptr<PackedWeight> Quantize(const LinearArgs& args) {
    const auto place = places_.find(args.weight);
    if (place == places_.end() || !status_.ok()) return nullptr;
    absl::StatusOr<std::unique_ptr<PackedWeight>> packed = QuantizePlace(args, place->second);
    if (packed.ok()) return *std::move(packed);
    status_ = packed.status();
    return nullptr;
  }

  absl::StatusOr<std::unique_ptr<PackedWeight>> QuantizePlace(const LinearArgs& args,
                                                              const Place& place) {
    ASSIGN_OR_RETURN(InputMoments inputs, MomentsOf(args));
    const int64_t cols = inputs.size;
    std::vector<float> importance(static_cast<size_t>(cols));
    for (int64_t i = 0; i < cols; ++i) {
      importance[static_cast<size_t>(i)] = inputs.moments[static_cast<size_t>(i * cols + i)];
    }
    Damp(options_.damping, &inputs);
    ASSIGN_OR_RETURN(std::vector<float> weights, WeightsOf(place, cols));
    ASSIGN_OR_RETURN(const double outputs, QuadraticForm(weights, inputs, products_.get()));
    RETURN_IF_ERROR(AddDrift(inputs, &weights));

    QuantizedMatrix matrix;
    matrix.rows = static_cast<int64_t>(weights.size()) / cols;
    matrix.cols = cols;
    matrix.format = format_;
    SearchGrids(weights, importance, team_, &matrix);
    const std::vector<int32_t> order = RoundingOrder(inputs);
    ASSIGN_OR_RETURN(const std::vector<float> feedback, FeedbackOf(inputs, order));
    if (!RoundWithFeedback(weights, order, feedback, products_.get(), team_, &matrix)) {
      return NoMemory("the errors of a matrix");
    }
    for (int64_t i = 0; i < matrix.rows * cols; ++i) {
      weights[static_cast<size_t>(i)] -= matrix.Value(i / cols, i % cols);
    }
    ASSIGN_OR_RETURN(const double error, QuadraticForm(weights, inputs, products_.get()));
    if (outputs > 0.0) worst_error_ = std::max(worst_error_, error / outputs);
    return Finish(place, matrix);
  }

  // Moves the rows of the weight to their target (input_moments.h).
  absl::Status AddDrift(const InputMoments& inputs, std::vector<float>* weights) {
    if (options_.drift == 0.0) return absl::OkStatus();
    const int64_t size = inputs.size;
    std::vector<float> drift(inputs.drift.size());  // transposed, and a share of it
    for (int64_t i = 0; i < size; ++i) {
      for (int64_t j = 0; j < size; ++j) {
        drift[static_cast<size_t>(j * size + i)] =
            static_cast<float>(options_.drift * inputs.drift[static_cast<size_t>(i * size + j)]);
      }
    }
    std::vector<float> moved(weights->size(), 0.0f);
    if (!products_->Add(weights->data(), static_cast<int64_t>(weights->size()) / size, drift.data(),
                        size, size, moved.data())) {
      return NoMemory("the target of a matrix");
    }
    return AddSolution(inputs, moved, team_, weights);
  }

  // Packs the quantised weight, and hands its parts to take_.
  absl::StatusOr<std::unique_ptr<PackedWeight>> Finish(const Place& place,
                                                       const QuantizedMatrix& matrix) {
    std::vector<WeightView> parts;
    int64_t begin = 0;
    for (const WeightRow* row : place.weight.rows) {
      const int64_t end = begin + DimSize(row->rows, spec_);
      parts.push_back(matrix.View(begin, end));
      RETURN_IF_ERROR(take_(WeightName(*row, place.layer), RowsOf(matrix, begin, end)));
      begin = end;
    }
    std::unique_ptr<PackedWeight> packed = plain_->Pack(parts, format_.WithBF16Activations(),
                                                        place.weight.role == WeightRole::kGateUp);
    if (packed == nullptr) return NoMemory("a quantised matrix");
    return packed;
  }

  // The rows of all parts of a weight, [rows, cols].
  absl::StatusOr<std::vector<float>> WeightsOf(const Place& place, int64_t cols) {
    std::vector<float> weights;
    for (const WeightRow* row : place.weight.rows) {
      const int64_t rows = DimSize(row->rows, spec_);
      ASSIGN_OR_RETURN(const StoredMatrix stored,
                       FindMatrix(spec_, checkpoint_, WeightName(*row, place.layer), rows, cols));
      const UnpackedMatrix unpacked = Unpack(stored, team_);
      const auto begin = static_cast<int64_t>(weights.size());
      weights.resize(weights.size() + static_cast<size_t>(rows * cols));
      for (int64_t r = 0; r < rows; ++r) {
        LoadWeightRow(unpacked.view, r, weights.data() + begin + r * cols);
      }
    }
    return weights;
  }

  absl::StatusOr<InputMoments> MomentsOf(const LinearArgs& args) {
    const int64_t size = args.x.cols;
    const int64_t half = args.x.rows / 2;
    InputMoments inputs;
    inputs.size = size;
    inputs.moments.assign(static_cast<size_t>(size * size), 0.0f);
    inputs.drift.assign(static_cast<size_t>(size * size), 0.0f);
    std::vector<float> norm(args.pre_norm.weight == nullptr ? 0 : static_cast<size_t>(size));
    if (!norm.empty()) {
      plain_->Download(args.pre_norm.weight, norm.data(), norm.size() * sizeof(float));
    }
    for (int64_t begin = 0; begin < half; begin += kChunkRows) {
      const int64_t count = std::min(kChunkRows, half - begin);
      std::vector<float> drift = Columns(args.x.Rows(begin, count), norm, args.pre_norm.eps);
      const std::vector<float> x =
          Columns(args.x.Rows(half + begin, count), norm, args.pre_norm.eps);
      for (size_t i = 0; i < x.size(); ++i) drift[i] -= x[i];
      if (!products_->Add(x.data(), size, x.data(), size, count, inputs.moments.data()) ||
          !products_->Add(drift.data(), size, x.data(), size, count, inputs.drift.data())) {
        return NoMemory("the moments of a linear's inputs");
      }
    }
    return inputs;
  }

  // The rows of `x` after the norm (empty: no norm), transposed: [cols, rows].
  std::vector<float> Columns(const Tensor& x, const std::vector<float>& norm, float eps) {
    std::vector<float> rows(static_cast<size_t>(x.rows * x.cols));
    for (int64_t row = 0; row < x.rows; ++row) {
      plain_->Download(x.f32(row), rows.data() + row * x.cols,
                       static_cast<size_t>(x.cols) * sizeof(float));
    }
    if (!norm.empty()) {
      team_->ParallelFor(x.rows, kTransposeCols, [&](int64_t begin, int64_t end, int /*member*/) {
        for (int64_t row = begin; row < end; ++row) NormRow(norm, eps, rows.data() + row * x.cols);
      });
    }
    std::vector<float> columns(rows.size());
    team_->ParallelFor(x.cols, kTransposeCols, [&](int64_t begin, int64_t end, int /*member*/) {
      for (int64_t row = 0; row < x.rows; ++row) {
        for (int64_t col = begin; col < end; ++col) {
          columns[static_cast<size_t>(col * x.rows + row)] =
              rows[static_cast<size_t>(row * x.cols + col)];
        }
      }
    });
    return columns;
  }

  const ModelSpec& spec_;
  const Checkpoint& checkpoint_;
  const QuantizeOptions& options_;
  ThreadTeam* const team_;
  const std::function<absl::Status(const std::string&, const QuantizedMatrix&)>& take_;

  WeightFormat format_;
  std::unique_ptr<Backend> plain_;
  std::unique_ptr<Backend> product_backend_;
  std::unique_ptr<MatrixProducts> products_;
  std::unique_ptr<QuantizingBackend> backend_;
  std::unique_ptr<Model> model_;
  std::map<const PackedWeight*, Place> places_;
  int64_t widest_ = 0;
  double worst_error_ = 0.0;  // of the present layer
  absl::Status status_;       // the first error inside a step
};

}  // namespace

absl::StatusOr<WeightFormat> QuantizeFormatOf(const ModelSpec& spec, const WeightFormat& format) {
  const std::vector<FusedWeight> weights = PresentWeights(spec);
  const auto first_undivided = [&](int32_t group_size) {
    for (const FusedWeight& weight : weights) {
      const int64_t cols = DimSize(weight.rows[0]->cols, spec);
      if (IsQuantizedRole(weight.role) && cols % group_size != 0) return cols;
    }
    return int64_t{0};
  };
  WeightFormat chosen(format.dtype, format.group_size, format.asymmetric);
  if (chosen.group_size == 0) {
    const auto* const size = std::find_if(std::begin(kGroupSizes), std::end(kGroupSizes),
                                          [&](int32_t s) { return first_undivided(s) == 0; });
    chosen.group_size = size == std::end(kGroupSizes) ? kGroupSizes[2] : *size;
  }
  const int64_t undivided = first_undivided(chosen.group_size);
  if (undivided == 0) return chosen;
  return absl::InvalidArgumentError(absl::StrCat(
      "groups of ", chosen.group_size, " do not divide the ", undivided,
      " inputs of a matrix; use a --group-size that does, a multiple of ", kGroupGranule));
}

absl::Status QuantizeModel(
    const ModelSpec& spec, const Checkpoint& checkpoint,
    const std::vector<std::vector<TokenId>>& sequences, const QuantizeOptions& options,
    ThreadTeam* team,
    const std::function<absl::Status(const std::string& name, const QuantizedMatrix& matrix)>& take,
    const std::function<void(const QuantizeProgress&)>& progress) {
  if (spec.quantization.method != QuantMethod::kNone) {
    return absl::InvalidArgumentError(absl::StrCat("the model is quantised already (",
                                                   QuantMethodName(spec.quantization.method),
                                                   "); give its original weights"));
  }
  Quantizer quantizer(spec, checkpoint, options, team, take);
  RETURN_IF_ERROR(quantizer.Prepare());
  return quantizer.Run(sequences, progress);
}

}  // namespace tessera
