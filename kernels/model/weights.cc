#include "kernels/model/weights.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "kernels/footprint.h"

namespace tessera {
namespace {

constexpr size_t kMaxNamed = 4;       // tensors that an error lists
constexpr int64_t kVectorAlign = 16;  // floats

// Rows of one slot: the parts of one fused weight.
struct Slot {
  WeightSlot slot;
  std::vector<const WeightRow*> rows;

  bool is_vector() const { return rows[0]->cols == WeightDim::kOne; }
};

// The slots that the model has, in table order.
std::vector<Slot> PresentSlots(const ModelSpec& spec) {
  std::vector<Slot> slots;
  for (const WeightRow& row : WeightTable(spec.family)) {
    if (!IsPresent(row.present, spec)) continue;
    if (slots.empty() || slots.back().slot != row.slot) slots.push_back({row.slot, {}});
    slots.back().rows.push_back(&row);
  }
  return slots;
}

int NumLayers(const Slot& slot, const ModelSpec& spec) {
  return IsPerLayer(slot.slot) ? spec.num_layers : 1;
}

int64_t NumElements(const Slot& slot, const ModelSpec& spec) {
  int64_t elements = 0;
  for (const WeightRow* row : slot.rows) {
    elements += DimSize(row->rows, spec) * DimSize(row->cols, spec);
  }
  return elements;
}

// Tensors that old checkpoints carry and nobody reads.
bool IsIgnored(const ModelSpec& spec, absl::string_view name) {
  if (absl::EndsWith(name, ".rotary_emb.inv_freq")) return true;
  return spec.tied_embeddings && name == "lm_head.weight";
}

std::string List(const std::vector<std::string>& names) {
  const size_t shown = std::min(names.size(), kMaxNamed);
  const std::string list = absl::StrJoin(names.begin(), names.begin() + shown, ", ");
  return shown == names.size() ? list : absl::StrCat(list, ", ... (", names.size(), " in all)");
}

absl::Status CheckTensor(const ModelSpec& spec, const WeightRow& row, const std::string& name,
                         const StoredTensor& tensor) {
  std::vector<int64_t> shape = {DimSize(row.rows, spec), DimSize(row.cols, spec)};
  if (row.cols == WeightDim::kOne) shape.pop_back();
  if (!tensor.dtype.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat(tensor.file, ": tensor ", name, " is stored as ",
                                                   tensor.dtype_name,
                                                   "; supported are F32, F16 and BF16"));
  }
  if (tensor.shape == shape) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(tensor.file, ": tensor ", name, " has shape ", tensor.ShapeString(),
                   " but config.json makes it [", absl::StrJoin(shape, ", "), "]"));
}

void ToFloats(const StoredTensor& tensor, float* out) {
  const int64_t bytes = DTypeBytes(*tensor.dtype);
  for (int64_t i = 0; i * bytes < tensor.num_bytes; ++i) {
    const char* const at = tensor.data + i * bytes;
    uint16_t half = 0;
    if (bytes == 2) std::memcpy(&half, at, sizeof(half));
    switch (*tensor.dtype) {
      case DType::kBF16:
        out[i] = BF16ToFloat(half);
        break;
      case DType::kF16:
        out[i] = F16ToFloat(half);
        break;
      default:
        std::memcpy(&out[i], at, sizeof(float));
    }
  }
}

class Loader final {
 public:
  Loader(const ModelSpec& spec, const Checkpoint& checkpoint, Backend* backend,
         const WeightOptions& options)
      : spec_(spec), checkpoint_(checkpoint), backend_(backend), options_(options) {}

  absl::StatusOr<ModelWeights> Load() {
    weights_.dtype = ResolveWeightDtype(spec_, checkpoint_, options_.dtype);
    weights_.layers.resize(spec_.num_layers);
    const std::vector<Slot> slots = PresentSlots(spec_);
    RETURN_IF_ERROR(AllocateVectors(slots));
    for (const Slot& slot : slots) {
      if (!IsPerLayer(slot.slot)) RETURN_IF_ERROR(LoadSlot(slot, 0));
    }
    for (int layer = 0; layer < spec_.num_layers; ++layer) {
      for (const Slot& slot : slots) {
        if (IsPerLayer(slot.slot)) RETURN_IF_ERROR(LoadSlot(slot, layer));
      }
    }
    return std::move(weights_);
  }

 private:
  absl::Status AllocateVectors(const std::vector<Slot>& slots) {
    int64_t floats = 0;
    for (const Slot& slot : slots) {
      if (slot.is_vector()) {
        floats += NumLayers(slot, spec_) * RoundUp(NumElements(slot, spec_), kVectorAlign);
      }
      for (const WeightRow* row : slot.rows) {
        for (int layer = 0; layer < NumLayers(slot, spec_); ++layer) {
          total_bytes_ += checkpoint_.Find(WeightName(*row, layer))->num_bytes;
        }
      }
    }
    weights_.vectors = backend_->Allocate(floats * sizeof(float));
    if (weights_.vectors == nullptr) return OutOfMemory("norms and biases");
    next_vector_ = static_cast<float*>(weights_.vectors->data());
    return absl::OkStatus();
  }

  absl::Status LoadSlot(const Slot& slot, int layer) {
    absl::Status status = slot.is_vector() ? LoadVector(slot, layer) : Pack(slot, layer);
    for (const WeightRow* row : slot.rows) {
      const StoredTensor& tensor = *checkpoint_.Find(WeightName(*row, layer));
      checkpoint_.Drop(tensor);
      done_bytes_ += tensor.num_bytes;
    }
    if (status.ok() && options_.progress) options_.progress(done_bytes_, total_bytes_);
    return status;
  }

  absl::Status LoadVector(const Slot& slot, int layer) {
    float* const begin = next_vector_;
    const int64_t count = NumElements(slot, spec_);
    next_vector_ += RoundUp(count, kVectorAlign);
    float* out = begin;
    for (const WeightRow* row : slot.rows) {
      ToFloats(*checkpoint_.Find(WeightName(*row, layer)), out);
      out += DimSize(row->rows, spec_);
    }
    const bool is_norm = absl::EndsWith(slot.rows[0]->pattern, "norm.weight");
    if (is_norm && spec_.norm_plus_one) {
      for (int64_t i = 0; i < count; ++i) begin[i] += 1.0f;
    }
    *VectorOf(slot.slot, &weights_.layers[layer]) = begin;
    return absl::OkStatus();
  }

  absl::Status Pack(const Slot& slot, int layer) {
    std::vector<WeightView> parts;
    std::vector<std::unique_ptr<char[]>> copies;
    for (const WeightRow* row : slot.rows) {
      const StoredTensor& tensor = *checkpoint_.Find(WeightName(*row, layer));
      const char* data = tensor.data;
      // The header may have any length, so tensors may lie at any address.
      if (reinterpret_cast<uintptr_t>(data) % DTypeBytes(*tensor.dtype) != 0) {
        copies.push_back(std::make_unique<char[]>(tensor.num_bytes));
        std::memcpy(copies.back().get(), data, tensor.num_bytes);
        data = copies.back().get();
      }
      parts.push_back({data, *tensor.dtype, DimSize(row->rows, spec_), DimSize(row->cols, spec_)});
    }
    const bool interleave_gate = slot.slot == WeightSlot::kGateUp;
    std::unique_ptr<PackedWeight>* const out =
        MatrixOf(slot.slot, IsPerLayer(slot.slot) ? &weights_.layers[layer] : nullptr);
    *out = backend_->Pack(parts, WeightFormatOf(slot.slot, weights_.dtype, options_.int4),
                          interleave_gate);
    if (*out == nullptr) return OutOfMemory(WeightName(*slot.rows[0], layer));
    return absl::OkStatus();
  }

  absl::Status OutOfMemory(absl::string_view what) const {
    return absl::ResourceExhaustedError(
        absl::StrCat("not enough memory for ", what, ": the weights take ",
                     EstimateWeightBytes(spec_, weights_.dtype, options_.int4), " bytes as ",
                     DTypeName(weights_.dtype)));
  }

  const float** VectorOf(WeightSlot slot, LayerWeights* layer) {
    switch (slot) {
      case WeightSlot::kFinalNorm:
        return &weights_.final_norm;
      case WeightSlot::kAttentionNorm:
        return &layer->attention_norm;
      case WeightSlot::kQkvBias:
        return &layer->qkv_bias;
      case WeightSlot::kQNorm:
        return &layer->q_norm;
      case WeightSlot::kKNorm:
        return &layer->k_norm;
      case WeightSlot::kOutBias:
        return &layer->out_bias;
      case WeightSlot::kPostAttentionNorm:
        return &layer->post_attention_norm;
      case WeightSlot::kMlpNorm:
        return &layer->mlp_norm;
      case WeightSlot::kGateUpBias:
        return &layer->gate_up_bias;
      case WeightSlot::kDownBias:
        return &layer->down_bias;
      case WeightSlot::kPostMlpNorm:
        return &layer->post_mlp_norm;
      default:
        CHECK(false) << "slot " << static_cast<int>(slot) << " is not a vector";
        return nullptr;
    }
  }

  std::unique_ptr<PackedWeight>* MatrixOf(WeightSlot slot, LayerWeights* layer) {
    switch (slot) {
      case WeightSlot::kEmbed:
        return &weights_.embed;
      case WeightSlot::kLmHead:
        return &weights_.lm_head;
      case WeightSlot::kQkv:
        return &layer->qkv;
      case WeightSlot::kOut:
        return &layer->out;
      case WeightSlot::kGateUp:
        return &layer->gate_up;
      case WeightSlot::kDown:
        return &layer->down;
      default:
        CHECK(false) << "slot " << static_cast<int>(slot) << " is not a matrix";
        return nullptr;
    }
  }

  const ModelSpec& spec_;
  const Checkpoint& checkpoint_;
  Backend* const backend_;
  const WeightOptions& options_;
  ModelWeights weights_;
  float* next_vector_ = nullptr;
  int64_t done_bytes_ = 0;
  int64_t total_bytes_ = 0;
};

}  // namespace

int64_t ModelWeights::num_bytes() const {
  int64_t bytes = static_cast<int64_t>(vectors->size() + embed->bytes());
  if (lm_head != nullptr) bytes += static_cast<int64_t>(lm_head->bytes());
  for (const LayerWeights& layer : layers) {
    for (const auto* weight : {&layer.qkv, &layer.out, &layer.gate_up, &layer.down}) {
      bytes += static_cast<int64_t>((*weight)->bytes());
    }
  }
  return bytes;
}

DType ResolveWeightDtype(const ModelSpec& spec, const Checkpoint& checkpoint, WeightDtype dtype) {
  if (dtype == WeightDtype::kF32) return DType::kF32;
  if (dtype == WeightDtype::kBF16) return DType::kBF16;
  if (dtype == WeightDtype::kI8) return DType::kI8;
  if (dtype == WeightDtype::kI4) return DType::kI4;
  for (const Slot& slot : PresentSlots(spec)) {
    if (slot.is_vector()) continue;
    for (const WeightRow* row : slot.rows) {
      for (int layer = 0; layer < NumLayers(slot, spec); ++layer) {
        const StoredTensor* const tensor = checkpoint.Find(WeightName(*row, layer));
        if (tensor != nullptr && tensor->dtype != DType::kBF16) return DType::kF32;
      }
    }
  }
  return DType::kBF16;
}

WeightFormat WeightFormatOf(WeightSlot slot, DType dtype, const WeightFormat& int4) {
  if (dtype != DType::kI4) return dtype;
  const bool is_table = slot == WeightSlot::kEmbed || slot == WeightSlot::kLmHead;
  return is_table ? WeightFormat(DType::kI8) : int4;
}

int64_t EstimateWeightBytes(const ModelSpec& spec, DType dtype, const WeightFormat& int4) {
  int64_t vectors = 0;  // floats
  int64_t bytes = 0;
  for (const Slot& slot : PresentSlots(spec)) {
    const int64_t layers = NumLayers(slot, spec);
    if (slot.is_vector()) {
      vectors += layers * RoundUp(NumElements(slot, spec), kVectorAlign);
      continue;
    }
    int64_t rows = 0;
    for (const WeightRow* row : slot.rows) rows += DimSize(row->rows, spec);
    const int64_t parts = slot.slot == WeightSlot::kGateUp ? 2 : 1;
    bytes += layers * PackedBytes(parts, rows / parts, DimSize(slot.rows[0]->cols, spec),
                                  WeightFormatOf(slot.slot, dtype, int4));
  }
  return bytes + BufferBytes(vectors * DTypeBytes(DType::kF32));
}

absl::Status CheckWeights(const ModelSpec& spec, const Checkpoint& checkpoint) {
  std::set<std::string> expected;
  std::vector<std::string> missing;
  for (const Slot& slot : PresentSlots(spec)) {
    for (int layer = 0; layer < NumLayers(slot, spec); ++layer) {
      for (const WeightRow* row : slot.rows) {
        const std::string name = WeightName(*row, layer);
        const StoredTensor* const tensor = checkpoint.Find(name);
        expected.insert(name);
        if (tensor == nullptr) {
          missing.push_back(name);
          continue;
        }
        RETURN_IF_ERROR(CheckTensor(spec, *row, name, *tensor));
      }
    }
  }
  if (!missing.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the checkpoint lacks tensors that config.json asks for: ", List(missing)));
  }
  std::vector<std::string> unexpected;
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    if (expected.count(name) == 0 && !IsIgnored(spec, name)) unexpected.push_back(name);
  }
  if (unexpected.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the checkpoint has tensors that a ", spec.family,
                   " model of this config.json does not use: ", List(unexpected)));
}

absl::StatusOr<ModelWeights> LoadWeights(const ModelSpec& spec, const Checkpoint& checkpoint,
                                         Backend* backend, const WeightOptions& options) {
  RETURN_IF_ERROR(CheckWeights(spec, checkpoint));
  return Loader(spec, checkpoint, backend, options).Load();
}

}  // namespace tessera
