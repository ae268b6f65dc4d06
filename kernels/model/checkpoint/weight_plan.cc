#include "kernels/model/checkpoint/weight_plan.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "kernels/device/footprint.h"
#include "kernels/model/checkpoint/stored_matrix.h"

namespace tessera {
namespace {

constexpr char kEmbedName[] = "model.embed_tokens.weight";
constexpr char kHeadName[] = "lm_head.weight";
constexpr size_t kMaxNamed = 4;  // largest number of tensors that an error lists

// Whether the tensor is one that old checkpoints contain and no model reads.
bool IsIgnored(const ModelSpec& spec, absl::string_view name) {
  if (absl::EndsWith(name, ".rotary_emb.inv_freq")) return true;
  return spec.tied_embeddings && name == kHeadName;
}

std::string List(const std::vector<std::string>& names) {
  const size_t shown = std::min(names.size(), kMaxNamed);
  const std::string list = absl::StrJoin(names.begin(), names.begin() + shown, ", ");
  return shown == names.size() ? list : absl::StrCat(list, ", ... (", names.size(), " in all)");
}

absl::Status CheckVector(const std::string& name, const StoredTensor& tensor, int64_t size) {
  if (!tensor.dtype.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat(tensor.file, ": tensor ", name, " is stored as ",
                                                   tensor.dtype_name,
                                                   "; supported are F32, F16 and BF16"));
  }
  if (tensor.shape == std::vector<int64_t>{size}) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(tensor.file, ": tensor ", name, " has shape ",
                                                 tensor.ShapeString(),
                                                 " but config.json makes it [", size, "]"));
}

std::string Describe(const StoredMatrix& matrix) {
  if (!matrix.quantized()) return DTypeName(*matrix.weight->dtype);
  if (matrix.format.group_size == 0) return DTypeName(matrix.format.dtype);
  return absl::StrCat(DTypeName(matrix.format.dtype), " in groups of ", matrix.format.group_size);
}

// Checks the tensors of a checkpoint in one pass, then makes the plan.
class Planner final {
 public:
  Planner(const ModelSpec& spec, const Checkpoint& checkpoint, const WeightRequest& request)
      : spec_(spec), checkpoint_(checkpoint), request_(request) {}

  absl::Status Check() {
    for (const FusedWeight& weight : PresentWeights(spec_)) {
      for (int layer = 0; layer < NumLayers(weight, spec_); ++layer) {
        RETURN_IF_ERROR(weight.is_vector() ? CheckVectors(weight, layer)
                                           : CheckMatrices(weight, layer));
      }
    }
    if (!missing_.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("the checkpoint lacks tensors that config.json asks for: ", List(missing_)));
    }
    std::vector<std::string> unexpected;
    for (const auto& [name, tensor] : checkpoint_.tensors()) {
      if (expected_.count(name) == 0 && !IsIgnored(spec_, name)) unexpected.push_back(name);
    }
    if (unexpected.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("the checkpoint has tensors that a ", spec_.family,
                     " model of this config.json does not use: ", List(unexpected)));
  }

  // REQUIRES: Check() returned OK.
  WeightPlan Plan() const {
    WeightPlan plan = PlanFloatWeights(spec_, FloatDtype(request_.dtype), request_);
    plan.stored_bytes = stored_bytes_;
    bool int8_activations = false;
    for (const Ready& ready : ready_) {
      if (IsPerLayer(ready.role)) {
        plan.dtype = ready.format.format.dtype;
        int8_activations |= ready.format.format.activations == DType::kI8;
        plan.activations = int8_activations ? DType::kI8 : DType::kBF16;
      }
      plan.layers[static_cast<size_t>(ready.layer)][static_cast<size_t>(ready.role)] = ready.format;
    }
    return plan;
  }

 private:
  // A weight that the checkpoint has quantised.
  struct Ready {
    WeightRole role;
    int layer;
    PackedFormat format;
  };

  DType FloatDtype(WeightDtype dtype) const {
    switch (dtype) {
      case WeightDtype::kF32:
        return DType::kF32;
      case WeightDtype::kBF16:
        return DType::kBF16;
      case WeightDtype::kI8:
        return DType::kI8;
      case WeightDtype::kI4:
        return DType::kI4;
      case WeightDtype::kI5:
        return DType::kI5;
      case WeightDtype::kAuto:
        break;
    }
    return all_bf16_ ? DType::kBF16 : DType::kF32;
  }

  absl::Status CheckVectors(const FusedWeight& weight, int layer) {
    for (const WeightRow* row : weight.rows) {
      const std::string name = WeightName(*row, layer);
      const StoredTensor* const tensor = checkpoint_.Find(name);
      expected_.insert(name);
      if (tensor == nullptr) {
        missing_.push_back(name);
        continue;
      }
      RETURN_IF_ERROR(CheckVector(name, *tensor, DimSize(row->rows, spec_)));
      stored_bytes_ += tensor->num_bytes;
    }
    return absl::OkStatus();
  }

  absl::Status CheckMatrices(const FusedWeight& weight, int layer) {
    std::vector<StoredMatrix> parts;
    for (const WeightRow* row : weight.rows) {
      const std::string name = WeightName(*row, layer);
      ASSIGN_OR_RETURN(StoredMatrix part,
                       FindMatrix(spec_, checkpoint_, name, DimSize(row->rows, spec_),
                                  DimSize(row->cols, spec_)));
      if (!part.found()) {
        missing_.push_back(name);
        continue;
      }
      expected_.insert(part.tensor_names.begin(), part.tensor_names.end());
      stored_bytes_ += part.num_bytes();
      if (!part.quantized() && part.weight->dtype != DType::kBF16) all_bf16_ = false;
      parts.push_back(std::move(part));
    }
    if (parts.size() < weight.rows.size()) return absl::OkStatus();
    return Fuse(weight, layer, parts);
  }

  // Checks that all parts of a fused weight are stored in one format.
  absl::Status Fuse(const FusedWeight& weight, int layer, const std::vector<StoredMatrix>& parts) {
    const StoredMatrix& first = parts[0];
    Ready ready{weight.role, layer, {first.format, DType::kF32}};
    for (size_t i = 0; i < parts.size(); ++i) {
      const StoredMatrix& part = parts[i];
      if (part.quantized() != first.quantized() || part.format.dtype != first.format.dtype ||
          part.format.group_size != first.format.group_size) {
        return absl::InvalidArgumentError(absl::StrCat(
            WeightName(*weight.rows[0], layer), " is stored as ", Describe(first), " but ",
            WeightName(*weight.rows[i], layer), " as ", Describe(part),
            "; they are one weight here, so use a checkpoint that quantises them alike"));
      }
      if (part.format.activations != first.format.activations &&
          request_.activations == ActivationDtype::kAuto) {
        return absl::InvalidArgumentError(absl::StrCat(
            WeightName(*weight.rows[0], layer), " is quantised for ",
            DTypeName(first.format.activations), " activations but ",
            WeightName(*weight.rows[i], layer), " for ", DTypeName(part.format.activations),
            "; they are one weight here, so choose the activations of all weights (bfloat16 or "
            "int8)"));
      }
      ready.format.format.asymmetric |= part.format.asymmetric;
    }
    if (!first.quantized()) return absl::OkStatus();
    if (request_.activations != ActivationDtype::kAuto) {
      ready.format.format.activations =
          request_.activations == ActivationDtype::kI8 ? DType::kI8 : DType::kBF16;
    }
    const bool same_scales = std::all_of(
        parts.begin(), parts.end(),
        [&first](const StoredMatrix& part) { return part.scales->dtype == first.scales->dtype; });
    if (same_scales) ready.format.group_scales = *first.scales->dtype;
    ready_.push_back(ready);
    return absl::OkStatus();
  }

  const ModelSpec& spec_;
  const Checkpoint& checkpoint_;
  const WeightRequest& request_;
  std::set<std::string> expected_;
  std::vector<std::string> missing_;
  std::vector<Ready> ready_;
  int64_t stored_bytes_ = 0;
  bool all_bf16_ = true;  // all matrices that are stored as floats are bfloat16
};

WeightFormat FloatFormat(WeightRole role, DType dtype, const WeightFormat& int4) {
  if (dtype != DType::kI4 && dtype != DType::kI5) return dtype;
  const bool is_table = role == WeightRole::kEmbed || role == WeightRole::kLmHead;
  if (is_table || role == WeightRole::kOut) return DType::kI8;
  return dtype == DType::kI5 ? kInt5Format : int4;
}

int64_t WeightBytes(const ModelSpec& spec, const FusedWeight& weight, const PackedFormat& packed) {
  int64_t rows = 0;
  for (const WeightRow* row : weight.rows) rows += DimSize(row->rows, spec);
  const int64_t parts = weight.role == WeightRole::kGateUp ? 2 : 1;
  return PackedBytes(parts, rows / parts, DimSize(weight.rows[0]->cols, spec), packed.format,
                     packed.group_scales);
}

}  // namespace

WeightPlan PlanFloatWeights(const ModelSpec& spec, DType dtype, const WeightRequest& request) {
  const bool bf16_activations = request.activations == ActivationDtype::kBF16;
  WeightPlan plan;
  plan.dtype = dtype;
  plan.activations = dtype;
  if (WeightFormat(dtype).quantized()) {
    plan.activations = bf16_activations ? DType::kBF16 : DType::kI8;
  }
  plan.layers.resize(static_cast<size_t>(spec.num_layers));
  for (const FusedWeight& weight : PresentWeights(spec)) {
    if (weight.is_vector()) continue;
    WeightFormat format = FloatFormat(weight.role, dtype, request.int4);
    if (format.quantized()) {
      format = bf16_activations ? format.WithBF16Activations()
                                : format.Rotated(DimSize(weight.rows[0]->cols, spec));
    }
    for (int layer = 0; layer < NumLayers(weight, spec); ++layer) {
      plan.layers[static_cast<size_t>(layer)][static_cast<size_t>(weight.role)].format = format;
    }
  }
  return plan;
}

int64_t PlannedWeightBytes(const ModelSpec& spec, const WeightPlan& plan) {
  int64_t vectors = 0;  // floats
  int64_t bytes = 0;
  for (const FusedWeight& weight : PresentWeights(spec)) {
    for (int layer = 0; layer < NumLayers(weight, spec); ++layer) {
      if (weight.is_vector()) {
        vectors += RoundUp(NumElements(weight, spec), kVectorAlign);
      } else {
        bytes += WeightBytes(spec, weight, plan.Of(weight.role, layer));
      }
    }
  }
  return bytes + BufferBytes(vectors * DTypeBytes(DType::kF32));
}

void UntieStoredHead(const Checkpoint& checkpoint, ModelSpec* spec) {
  if (!spec->tied_embeddings) return;
  const StoredTensor* const head = checkpoint.Find(kHeadName);
  const StoredTensor* const embed = checkpoint.Find(kEmbedName);
  if (head == nullptr || embed == nullptr) return;
  const bool is_copy =
      head->dtype_name == embed->dtype_name && head->shape == embed->shape &&
      std::memcmp(head->data, embed->data, static_cast<size_t>(head->num_bytes)) == 0;
  if (is_copy) return;
  spec->tied_embeddings = false;
  TLOG_WARN(
      "{}: tensor {} differs from {}, so it is used for the logits although config.json has "
      "tie_word_embeddings true; set it to false to silence this warning",
      head->file, kHeadName, kEmbedName);
}

absl::StatusOr<WeightPlan> PlanWeights(const ModelSpec& spec, const Checkpoint& checkpoint,
                                       const WeightRequest& request) {
  Planner planner(spec, checkpoint, request);
  const absl::Status status = planner.Check();
  // A file that changed meanwhile explains every other error.
  RETURN_IF_ERROR(checkpoint.CheckIntact());
  RETURN_IF_ERROR(status);
  return planner.Plan();
}

}  // namespace tessera
