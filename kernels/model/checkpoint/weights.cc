#include "kernels/model/checkpoint/weights.h"

#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "kernels/model/checkpoint/content_hash.h"
#include "kernels/model/checkpoint/stored_matrix.h"
#include "kernels/model/checkpoint/weight_table.h"

namespace tessera {
namespace {

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
         const WeightPlan& plan, const WeightOptions& options)
      : spec_(spec),
        checkpoint_(checkpoint),
        backend_(backend),
        plan_(plan),
        options_(options),
        own_team_(options.team == nullptr ? std::make_unique<ThreadTeam>(1) : nullptr),
        hashes_(team()) {}

  absl::StatusOr<ModelWeights> Load() {
    weights_.dtype = plan_.dtype;
    weights_.layers.resize(spec_.num_layers);
    const std::vector<SlotRows> slots = PresentSlots(spec_);
    RETURN_IF_ERROR(AllocateVectors(slots));
    for (const SlotRows& slot : slots) {
      if (!IsPerLayer(slot.slot)) RETURN_IF_ERROR(LoadSlot(slot, 0));
    }
    for (int layer = 0; layer < spec_.num_layers; ++layer) {
      if (layer + 1 < spec_.num_layers) PrefetchLayer(slots, layer + 1);
      for (const SlotRows& slot : slots) {
        if (IsPerLayer(slot.slot)) RETURN_IF_ERROR(LoadSlot(slot, layer));
      }
    }
    weights_.content_hash = HashWeights(read_, &hashes_);
    return std::move(weights_);
  }

 private:
  absl::Status AllocateVectors(const std::vector<SlotRows>& slots) {
    int64_t floats = 0;
    for (const SlotRows& slot : slots) {
      if (!slot.is_vector()) continue;
      floats += NumLayers(slot, spec_) * RoundUp(NumElements(slot, spec_), kVectorAlign);
    }
    weights_.vectors = backend_->Allocate(floats * sizeof(float));
    if (weights_.vectors == nullptr) return OutOfMemory("norms and biases");
    next_vector_ = static_cast<float*>(weights_.vectors->data());
    return absl::OkStatus();
  }

  // The file is read while the layer before is packed.
  void PrefetchLayer(const std::vector<SlotRows>& slots, int layer) const {
    for (const SlotRows& slot : slots) {
      if (!IsPerLayer(slot.slot) || slot.is_vector()) continue;
      for (const WeightRow* row : slot.rows) PrefetchModule(WeightName(*row, layer));
    }
  }

  // All tensors of the matrix, whatever it is stored as.
  void PrefetchModule(const std::string& name) const {
    const std::string module = name.substr(0, name.rfind('.') + 1);
    const StoredTensors& tensors = checkpoint_.tensors();
    for (auto it = tensors.lower_bound(module); it != tensors.end(); ++it) {
      if (!absl::StartsWith(it->first, module)) return;
      checkpoint_.Prefetch(it->second);
    }
  }

  absl::Status LoadSlot(const SlotRows& slot, int layer) {
    if (slot.is_vector()) {
      LoadVector(slot, layer);
    } else {
      RETURN_IF_ERROR(Pack(slot, layer));
    }
    if (options_.progress) options_.progress(done_bytes_, plan_.stored_bytes);
    return absl::OkStatus();
  }

  void LoadVector(const SlotRows& slot, int layer) {
    float* const begin = next_vector_;
    const int64_t count = NumElements(slot, spec_);
    next_vector_ += RoundUp(count, kVectorAlign);
    float* out = begin;
    for (const WeightRow* row : slot.rows) {
      const StoredTensor& tensor = Read(WeightName(*row, layer));
      ToFloats(tensor, out);
      out += DimSize(row->rows, spec_);
      done_bytes_ += tensor.num_bytes;
    }
    const bool is_norm = absl::EndsWith(slot.rows[0]->pattern, "norm.weight");
    if (is_norm && spec_.norm_plus_one) {
      for (int64_t i = 0; i < count; ++i) begin[i] += 1.0f;
    }
    *VectorOf(slot.slot, &weights_.layers[layer]) = begin;
  }

  absl::Status Pack(const SlotRows& slot, int layer) {
    std::vector<StoredMatrix> stored;
    for (const WeightRow* row : slot.rows) {
      ASSIGN_OR_RETURN(StoredMatrix matrix,
                       FindMatrix(spec_, checkpoint_, WeightName(*row, layer),
                                  DimSize(row->rows, spec_), DimSize(row->cols, spec_)));
      stored.push_back(std::move(matrix));
    }
    std::unique_ptr<PackedWeight>* const out =
        MatrixOf(slot.slot, IsPerLayer(slot.slot) ? &weights_.layers[layer] : nullptr);
    const WeightFormat& format = plan_.Of(slot.slot, layer).format;
    const bool interleave_gate = slot.slot == WeightSlot::kGateUp;
    const auto pack = [&] { return PackParts(stored, format, interleave_gate); };
    *out = options_.pack_cache == nullptr
               ? pack()
               : options_.pack_cache->Find(backend_, stored, format, interleave_gate, team(), pack,
                                           &hashes_);
    if (*out == nullptr) return OutOfMemory(WeightName(*slot.rows[0], layer));
    for (const StoredMatrix& matrix : stored) {
      for (const std::string& name : matrix.tensor_names) Read(name);
      checkpoint_.Drop(*matrix.weight);
      done_bytes_ += matrix.num_bytes();
    }
    return absl::OkStatus();
  }

  // Sees to the tensor's hash while its bytes are at hand.
  const StoredTensor& Read(const std::string& name) {
    const StoredTensor& tensor = *checkpoint_.Find(name);
    hashes_.Of(tensor);
    read_[name] = &tensor;
    return tensor;
  }

  std::unique_ptr<PackedWeight> PackParts(const std::vector<StoredMatrix>& stored,
                                          const WeightFormat& format, bool interleave_gate) {
    std::vector<UnpackedMatrix> unpacked;
    std::vector<WeightView> parts;
    for (const StoredMatrix& matrix : stored) {
      unpacked.push_back(Unpack(matrix, team()));
      parts.push_back(unpacked.back().view);
      // Rows that are packed where they lie in the file are hashed by whoever packs them.
      const StoredTensor& tensor = *matrix.weight;
      if (parts.back().data == tensor.data) parts.back().observer = hashes_.Watch(tensor);
    }
    return backend_->Pack(parts, format, interleave_gate);
  }

  ThreadTeam* team() { return own_team_ != nullptr ? own_team_.get() : options_.team; }

  absl::Status OutOfMemory(absl::string_view what) const {
    return absl::ResourceExhaustedError(
        absl::StrCat("not enough memory for ", what, ": the weights take ",
                     PlannedWeightBytes(spec_, plan_), " bytes as ", DTypeName(plan_.dtype)));
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
  const WeightPlan& plan_;
  const WeightOptions& options_;
  const std::unique_ptr<ThreadTeam> own_team_;  // if options_ has none
  TensorHashes hashes_;
  std::map<std::string, const StoredTensor*> read_;
  ModelWeights weights_;
  float* next_vector_ = nullptr;
  int64_t done_bytes_ = 0;
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

absl::StatusOr<ModelWeights> LoadWeights(const ModelSpec& spec, const Checkpoint& checkpoint,
                                         Backend* backend, const WeightOptions& options) {
  ASSIGN_OR_RETURN(const WeightPlan plan,
                   PlanWeights(spec, checkpoint, options.dtype, options.int4));
  return Loader(spec, checkpoint, backend, plan, options).Load();
}

}  // namespace tessera
