#include "kernels/model/checkpoint/weights.h"

#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/finite.h"
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

  // Reads all tensors and packs none.
  absl::Status Check() {
    absl::Status status = CheckAll();
    RETURN_IF_ERROR(checkpoint_.CheckIntact());
    return status;
  }

  absl::StatusOr<ModelWeights> Load() {
    const absl::Status status = LoadAll();
    // A file that changed meanwhile explains every other error.
    RETURN_IF_ERROR(checkpoint_.CheckIntact());
    RETURN_IF_ERROR(status);
    return std::move(weights_);
  }

 private:
  absl::Status CheckAll() {
    for (const FusedWeight& weight : PresentWeights(spec_)) {
      const int num_layers = IsPerLayer(weight.role) ? spec_.num_layers : 1;
      for (int layer = 0; layer < num_layers; ++layer) {
        if (weight.is_vector()) {
          for (const WeightRow* row : weight.rows) {
            RETURN_IF_ERROR(Read(WeightName(*row, layer)).status());
          }
          continue;
        }
        ASSIGN_OR_RETURN(const std::vector<StoredMatrix> stored, Find(weight, layer));
        RETURN_IF_ERROR(ReadAll(stored));
      }
    }
    return absl::OkStatus();
  }

  absl::Status LoadAll() {
    weights_.dtype = plan_.dtype;
    weights_.layers.resize(spec_.num_layers);
    const std::vector<FusedWeight> weights = PresentWeights(spec_);
    RETURN_IF_ERROR(AllocateVectors(weights));
    for (const FusedWeight& weight : weights) {
      if (!IsPerLayer(weight.role)) RETURN_IF_ERROR(LoadWeight(weight, 0));
    }
    for (int layer = 0; layer < spec_.num_layers; ++layer) {
      if (layer + 1 < spec_.num_layers) PrefetchLayer(weights, layer + 1);
      for (const FusedWeight& weight : weights) {
        if (IsPerLayer(weight.role)) RETURN_IF_ERROR(LoadWeight(weight, layer));
      }
      RETURN_IF_ERROR(checkpoint_.CheckIntact());
    }
    weights_.content_hash = HashWeights(read_, &hashes_);
    return absl::OkStatus();
  }

  absl::Status AllocateVectors(const std::vector<FusedWeight>& weights) {
    int64_t floats = 0;
    for (const FusedWeight& weight : weights) {
      if (!weight.is_vector()) continue;
      floats += NumLayers(weight, spec_) * RoundUp(NumElements(weight, spec_), kVectorAlign);
    }
    weights_.vectors = backend_->Allocate(floats * sizeof(float));
    if (weights_.vectors == nullptr) return OutOfMemory("norms and biases");
    next_vector_ = static_cast<float*>(weights_.vectors->data());
    return absl::OkStatus();
  }

  // Starts to read a layer's matrices from the file, so that they are read while the previous layer
  // is packed.
  void PrefetchLayer(const std::vector<FusedWeight>& weights, int layer) const {
    for (const FusedWeight& weight : weights) {
      if (!IsPerLayer(weight.role) || weight.is_vector()) continue;
      for (const WeightRow* row : weight.rows) PrefetchModule(WeightName(*row, layer));
    }
  }

  // Starts to read all tensors of a matrix, whether it is stored as floats or quantised.
  void PrefetchModule(const std::string& name) const {
    const std::string module = name.substr(0, name.rfind('.') + 1);
    const StoredTensors& tensors = checkpoint_.tensors();
    for (auto it = tensors.lower_bound(module); it != tensors.end(); ++it) {
      if (!absl::StartsWith(it->first, module)) return;
      checkpoint_.Prefetch(it->second);
    }
  }

  absl::Status LoadWeight(const FusedWeight& weight, int layer) {
    RETURN_IF_ERROR(weight.is_vector() ? LoadVector(weight, layer) : Pack(weight, layer));
    if (options_.progress) options_.progress(done_bytes_, plan_.stored_bytes);
    return absl::OkStatus();
  }

  absl::Status LoadVector(const FusedWeight& weight, int layer) {
    const int64_t count = NumElements(weight, spec_);
    std::vector<float> floats(static_cast<size_t>(count));
    float* out = floats.data();
    for (const WeightRow* row : weight.rows) {
      ASSIGN_OR_RETURN(const StoredTensor* const tensor, Read(WeightName(*row, layer)));
      ToFloats(*tensor, out);
      out += DimSize(row->rows, spec_);
      done_bytes_ += tensor->num_bytes;
    }
    const bool is_norm = absl::EndsWith(weight.rows[0]->pattern, "norm.weight");
    if (is_norm && spec_.norm_plus_one) {
      for (float& value : floats) value += 1.0f;
    }
    float* const begin = next_vector_;
    next_vector_ += RoundUp(count, kVectorAlign);
    backend_->Upload(floats.data(), begin, floats.size() * sizeof(float));
    *VectorOf(weight.role, &weights_.layers[layer]) = begin;
    return absl::OkStatus();
  }

  // The stored matrices that a weight consists of.
  absl::StatusOr<std::vector<StoredMatrix>> Find(const FusedWeight& weight, int layer) const {
    std::vector<StoredMatrix> stored;
    for (const WeightRow* row : weight.rows) {
      ASSIGN_OR_RETURN(StoredMatrix matrix,
                       FindMatrix(spec_, checkpoint_, WeightName(*row, layer),
                                  DimSize(row->rows, spec_), DimSize(row->cols, spec_)));
      stored.push_back(std::move(matrix));
    }
    return stored;
  }

  absl::Status Pack(const FusedWeight& weight, int layer) {
    ASSIGN_OR_RETURN(const std::vector<StoredMatrix> stored, Find(weight, layer));
    std::unique_ptr<PackedWeight>* const out =
        MatrixOf(weight.role, IsPerLayer(weight.role) ? &weights_.layers[layer] : nullptr);
    const WeightFormat& format = plan_.Of(weight.role, layer).format;
    const bool interleave_gate = weight.role == WeightRole::kGateUp;
    const auto pack = [&] { return PackParts(stored, format, interleave_gate); };
    *out = options_.pack_cache == nullptr
               ? pack()
               : options_.pack_cache->Find(backend_, stored, format, interleave_gate, team(), pack,
                                           &hashes_);
    if (*out == nullptr) return OutOfMemory(WeightName(*weight.rows[0], layer));
    return ReadAll(stored);
  }

  // Reads all tensors of the matrices and drops their file pages.
  absl::Status ReadAll(const std::vector<StoredMatrix>& stored) {
    for (const StoredMatrix& matrix : stored) {
      for (const std::string& name : matrix.tensor_names) RETURN_IF_ERROR(Read(name).status());
      checkpoint_.Drop(*matrix.weight);
      done_bytes_ += matrix.num_bytes();
    }
    return absl::OkStatus();
  }

  // Returns the tensor, and hashes its bytes if no observer has hashed them. A tensor with NaN or
  // infinity is an error.
  absl::StatusOr<const StoredTensor*> Read(const std::string& name) {
    const StoredTensor& tensor = *checkpoint_.Find(name);
    hashes_.Of(tensor);
    read_[name] = &tensor;
    if (hashes_.IsFinite(tensor)) return &tensor;
    const DType dtype = *tensor.dtype;
    const int64_t at = FirstNonFinite(tensor.data, tensor.num_bytes / DTypeBytes(dtype), dtype);
    return absl::InvalidArgumentError(absl::StrCat(
        tensor.file, ": tensor ", name, " has NaN or infinity at element ", at,
        "; the weights are damaged or training diverged: download them again or use another "
        "checkpoint"));
  }

  std::unique_ptr<PackedWeight> PackParts(const std::vector<StoredMatrix>& stored,
                                          const WeightFormat& format, bool interleave_gate) {
    std::vector<UnpackedMatrix> unpacked;
    std::vector<WeightView> parts;
    for (const StoredMatrix& matrix : stored) {
      unpacked.push_back(Unpack(matrix, team()));
      parts.push_back(unpacked.back().view);
      // A matrix that is packed straight from the mapped file is hashed by the packing threads.
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

  const float** VectorOf(WeightRole role, LayerWeights* layer) {
    switch (role) {
      case WeightRole::kFinalNorm:
        return &weights_.final_norm;
      case WeightRole::kAttentionNorm:
        return &layer->attention_norm;
      case WeightRole::kQkvBias:
        return &layer->qkv_bias;
      case WeightRole::kQNorm:
        return &layer->q_norm;
      case WeightRole::kKNorm:
        return &layer->k_norm;
      case WeightRole::kOutBias:
        return &layer->out_bias;
      case WeightRole::kPostAttentionNorm:
        return &layer->post_attention_norm;
      case WeightRole::kMlpNorm:
        return &layer->mlp_norm;
      case WeightRole::kGateUpBias:
        return &layer->gate_up_bias;
      case WeightRole::kDownBias:
        return &layer->down_bias;
      case WeightRole::kPostMlpNorm:
        return &layer->post_mlp_norm;
      default:
        CHECK(false) << "role " << static_cast<int>(role) << " is not a vector";
        return nullptr;
    }
  }

  std::unique_ptr<PackedWeight>* MatrixOf(WeightRole role, LayerWeights* layer) {
    switch (role) {
      case WeightRole::kEmbed:
        return &weights_.embed;
      case WeightRole::kLmHead:
        return &weights_.lm_head;
      case WeightRole::kQkv:
        return &layer->qkv;
      case WeightRole::kOut:
        return &layer->out;
      case WeightRole::kGateUp:
        return &layer->gate_up;
      case WeightRole::kDown:
        return &layer->down;
      default:
        CHECK(false) << "role " << static_cast<int>(role) << " is not a matrix";
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
  ASSIGN_OR_RETURN(const WeightPlan plan, PlanWeights(spec, checkpoint, options.request));
  return Loader(spec, checkpoint, backend, plan, options).Load();
}

absl::Status CheckWeights(const ModelSpec& spec, const Checkpoint& checkpoint,
                          const WeightOptions& options) {
  ASSIGN_OR_RETURN(const WeightPlan plan, PlanWeights(spec, checkpoint, options.request));
  return Loader(spec, checkpoint, /*backend=*/nullptr, plan, options).Check();
}

}  // namespace tessera
