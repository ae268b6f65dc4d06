#include "kernels/model/lora/peft.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <map>
#include <optional>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kernels/base/finite.h"
#include "kernels/base/foreign_file.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "kernels/model/lora/blend_svd.h"
#include "kernels/model/lora/peft_config.h"
#include "kernels/model/model.h"

namespace tessera {
namespace {

constexpr int64_t kMaxTensorsBytes = int64_t{16} << 30;
constexpr size_t kMaxShownName = 200;
constexpr absl::string_view kPrefix = "base_model.model.";
constexpr absl::string_view kLayers = "model.layers.";
// The other parts of a multimodal model. Newer versions of transformers have "model." before them.
constexpr absl::string_view kOtherParts[] = {"vision_tower.", "multi_modal_projector."};
constexpr const char* kBlocks[kNumLoraTargets] = {
    "self_attn", "self_attn", "self_attn", "self_attn", "mlp", "mlp", "mlp"};

// The parts of an adapter tensor's name.
struct TensorName {
  std::string module;  // "model.layers.0.self_attn.q_proj", or how else the file names the linear
  int layer = 0;
  LoraTarget target = LoraTarget::kQuery;
  bool is_a = false;
};

std::optional<TensorName> ParseName(absl::string_view name, int num_layers) {
  TensorName parsed;
  if (!absl::ConsumePrefix(&name, kPrefix)) return std::nullopt;
  parsed.is_a = absl::ConsumeSuffix(&name, ".lora_A.weight");
  if (!parsed.is_a && !absl::ConsumeSuffix(&name, ".lora_B.weight")) return std::nullopt;
  parsed.module = std::string(name);
  const std::string text_name = NameInTextModel(name).value_or(parsed.module);
  name = text_name;
  if (!absl::ConsumePrefix(&name, kLayers)) return std::nullopt;
  if (!absl::SimpleAtoi(name.substr(0, name.find('.')), &parsed.layer) || parsed.layer < 0 ||
      parsed.layer >= num_layers) {
    return std::nullopt;
  }
  for (int t = 0; t < kNumLoraTargets; ++t) {
    parsed.target = static_cast<LoraTarget>(t);
    if (text_name == LoraModuleName(parsed.layer, parsed.target)) return parsed;
  }
  return std::nullopt;
}

bool IsOfOtherPart(absl::string_view name) {
  if (!absl::ConsumePrefix(&name, kPrefix)) return false;
  absl::ConsumePrefix(&name, "model.");
  return std::any_of(std::begin(kOtherParts), std::end(kOtherParts),
                     [name](absl::string_view part) { return absl::StartsWith(name, part); });
}

// Removes the tensors of a multimodal model's other parts, and returns their number.
int64_t LeaveOutOtherParts(StoredTensors* tensors) {
  return static_cast<int64_t>(
      std::erase_if(*tensors, [](const auto& entry) { return IsOfOtherPart(entry.first); }));
}

// A tensor's name in an error message. Control characters are escaped, and long names are cut.
std::string ShowName(absl::string_view name) {
  std::string text = absl::Utf8SafeCHexEscape(name.substr(0, kMaxShownName));
  if (name.size() > kMaxShownName) text += "...";
  return text;
}

std::string ConfigFile(const std::string& dir) { return absl::StrCat(dir, "/adapter_config.json"); }

std::string TensorsFile(const std::string& dir) {
  return absl::StrCat(dir, "/adapter_model.safetensors");
}

std::vector<float> ReadFloats(const StoredTensor& tensor) {
  const int64_t width = DTypeBytes(*tensor.dtype);
  std::vector<float> values(static_cast<size_t>(tensor.num_bytes / width));
  for (size_t i = 0; i < values.size(); ++i) {
    const char* const from = tensor.data + static_cast<int64_t>(i) * width;
    if (*tensor.dtype == DType::kF32) {
      std::memcpy(&values[i], from, sizeof(float));
      continue;
    }
    uint16_t bits;
    std::memcpy(&bits, from, sizeof(bits));
    values[i] = *tensor.dtype == DType::kBF16 ? BF16ToFloat(bits) : F16ToFloat(bits);
  }
  return values;
}

// The weighted sum of the adapters for one linear: their rank rows are concatenated. The result has
// rank 0 when no adapter changes the linear.
LoraTensors Concatenate(const std::vector<WeightedAdapter>& adapters, int layer, LoraTarget target,
                        int64_t rows) {
  const size_t index = static_cast<size_t>(layer) * kNumLoraTargets + static_cast<size_t>(target);
  LoraTensors all;
  std::vector<LoraTensors> parts;
  for (const WeightedAdapter& of : adapters) {
    if (of.adapter->ranks()[index] == 0) continue;
    parts.push_back(of.adapter->Read(layer, target, of.weight));
    const LoraTensors& part = parts.back();
    all.rank += part.rank;
    all.a.insert(all.a.end(), part.a.begin(), part.a.end());
    all.scales.insert(all.scales.end(), part.scales.begin(), part.scales.end());
  }
  all.b.reserve(static_cast<size_t>(rows * all.rank));
  for (int64_t row = 0; row < rows; ++row) {
    for (const LoraTensors& part : parts) {
      const auto from = part.b.begin() + row * part.rank;
      all.b.insert(all.b.end(), from, from + part.rank);
    }
  }
  return all;
}

}  // namespace

std::string LoraModuleName(int layer, LoraTarget target) {
  return absl::StrCat(kLayers, layer, ".", kBlocks[static_cast<int>(target)], ".",
                      LoraTargetName(target));
}

absl::StatusOr<std::unique_ptr<PeftAdapter>> PeftAdapter::Open(
    const ModelSpec& spec, const std::string& dir, const std::vector<std::string>& roots) {
  const std::string file = TensorsFile(dir);
  ASSIGN_OR_RETURN(const PeftConfig config, PeftConfig::Open(ConfigFile(dir), roots));
  std::unique_ptr<PeftAdapter> adapter(new PeftAdapter());
  ASSIGN_OR_RETURN(adapter->bytes_, ReadForeignFile(file, {kMaxTensorsBytes, roots}));
  ASSIGN_OR_RETURN(adapter->tensors_, ParseSafetensors(file, adapter->bytes_));
  adapter->num_left_out_ = LeaveOutOtherParts(&adapter->tensors_);
  RETURN_IF_ERROR(adapter->Take(spec, dir, config, adapter->tensors_));
  for (const auto& [name, tensor] : adapter->tensors_) {
    const int64_t count = tensor.num_bytes / DTypeBytes(*tensor.dtype);
    if (AllFinite(tensor.data, count, *tensor.dtype)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": ", name,
                     " has NaN or an infinity; the adapter is damaged, download it again or train "
                     "it again"));
  }
  return adapter;
}

absl::StatusOr<std::vector<int32_t>> PeftAdapter::ReadRanks(const ModelSpec& spec,
                                                            const std::string& dir,
                                                            const std::vector<std::string>& roots) {
  ASSIGN_OR_RETURN(const PeftConfig config, PeftConfig::Open(ConfigFile(dir), roots));
  ASSIGN_OR_RETURN(StoredTensors tensors,
                   ReadSafetensorsHeader(TensorsFile(dir), {kMaxTensorsBytes, roots}));
  PeftAdapter adapter;
  adapter.num_left_out_ = LeaveOutOtherParts(&tensors);
  RETURN_IF_ERROR(adapter.Take(spec, dir, config, tensors));
  if (adapter.num_left_out_ > 0) {
    TLOG_WARN(
        "{}: {} tensors of other parts than the language model (vision, for example) are left out; "
        "requests can have text only",
        dir, adapter.num_left_out_);
  }
  return std::move(adapter.ranks_);
}

absl::Status PeftAdapter::Take(const ModelSpec& spec, const std::string& dir,
                               const PeftConfig& config, const StoredTensors& tensors) {
  const std::string config_path = ConfigFile(dir);
  const std::string file = TensorsFile(dir);
  RETURN_IF_ERROR(TakeTensors(spec, file, tensors));
  RETURN_IF_ERROR(CheckShapes(spec, file));
  ranks_.resize(matrices_.size(), 0);
  for (int layer = 0; layer < spec.num_layers; ++layer) {
    for (int t = 0; t < kNumLoraTargets; ++t) {
      const LoraTarget target = static_cast<LoraTarget>(t);
      Matrices& matrices = matrices_[Index(layer, target)];
      const std::string& module = matrices.module;
      if (matrices.a == nullptr) {
        if (!config.Expects(LoraTargetName(target))) continue;
        return absl::InvalidArgumentError(absl::StrCat(
            file, ": ", kPrefix, LoraModuleName(layer, target), ".lora_A.weight is missing; ",
            config_path, " has ", LoraTargetName(target), " in target_modules"));
      }
      const int32_t rank = static_cast<int32_t>(matrices.a->shape[0]);
      const absl::StatusOr<int32_t> rank_of_config = config.RankOf(module);
      const absl::StatusOr<float> scale = config.ScaleOf(module, rank);
      for (const absl::Status& matched : {rank_of_config.status(), scale.status()}) {
        if (matched.ok()) continue;
        return absl::InvalidArgumentError(absl::StrCat(config_path, ": ", matched.message()));
      }
      if (rank != *rank_of_config) {
        return absl::InvalidArgumentError(
            absl::StrCat(file, ": ", kPrefix, module, ".lora_A.weight has rank ", rank,
                         ", and r or rank_pattern in ", config_path,
                         " gives it another one; both files must be of one adapter"));
      }
      matrices.scale = *scale;
      ranks_[Index(layer, target)] = rank;
    }
  }
  return absl::OkStatus();
}

absl::Status PeftAdapter::TakeTensors(const ModelSpec& spec, const std::string& file,
                                      const StoredTensors& tensors) {
  matrices_.resize(static_cast<size_t>(spec.num_layers) * kNumLoraTargets);
  for (const auto& [name, tensor] : tensors) {
    const std::optional<TensorName> parsed = ParseName(name, spec.num_layers);
    if (!parsed.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat(
          file, ": ", ShowName(name), " is no LoRA tensor of this model, which has ",
          spec.num_layers,
          " layers; adapters may change q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj and "
          "down_proj of ",
          kPrefix, kLayers, "N, ", kPrefix, "model.language_model.layers.N, ", kPrefix,
          "language_model.model.layers.N"));
    }
    if (!tensor.dtype.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat(file, ": ", name, " has the type ",
                                                     tensor.dtype_name,
                                                     "; F32, F16 and BF16 are supported"));
    }
    Matrices& matrices = matrices_[Index(parsed->layer, parsed->target)];
    if (!matrices.module.empty() && matrices.module != parsed->module) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": ", name, " and the tensors of ", kPrefix, matrices.module,
                       " are of the same linear; the file must name each linear in one way"));
    }
    matrices.module = parsed->module;
    (parsed->is_a ? matrices.a : matrices.b) = &tensor;
  }
  return absl::OkStatus();
}

absl::Status PeftAdapter::CheckShapes(const ModelSpec& spec, const std::string& file) const {
  const LoraShape shape = LoraShapeOf(spec);
  bool any = false;
  for (int layer = 0; layer < spec.num_layers; ++layer) {
    for (int t = 0; t < kNumLoraTargets; ++t) {
      const LoraTarget target = static_cast<LoraTarget>(t);
      const Matrices& matrices = matrices_[Index(layer, target)];
      if (matrices.a == nullptr && matrices.b == nullptr) continue;
      const std::string name = absl::StrCat(kPrefix, matrices.module);
      if (matrices.a == nullptr || matrices.b == nullptr) {
        return absl::InvalidArgumentError(absl::StrCat(
            file, ": ", name, matrices.a == nullptr ? ".lora_A.weight" : ".lora_B.weight",
            " is missing, its other half is there"));
      }
      const int64_t cols = shape.cols[t];
      const int64_t rows = shape.rows[t];
      const std::vector<int64_t>& a = matrices.a->shape;
      if (a.size() != 2 || a[0] < 1 || a[0] > kMaxLoraRank || a[1] != cols) {
        return absl::InvalidArgumentError(
            absl::StrCat(file, ": ", name, ".lora_A.weight is ", matrices.a->ShapeString(),
                         ", the model needs [rank, ", cols, "], rank 1 to ", kMaxLoraRank));
      }
      if (matrices.b->shape != std::vector<int64_t>{rows, a[0]}) {
        return absl::InvalidArgumentError(
            absl::StrCat(file, ": ", name, ".lora_B.weight is ", matrices.b->ShapeString(),
                         ", the model needs [", rows, ", ", a[0], "]"));
      }
      const bool fused = target <= LoraTarget::kValue;
      if (fused && (shape.rows[0] % kLoraPanel != 0 || shape.rows[1] % kLoraPanel != 0)) {
        return absl::UnimplementedError(absl::StrCat(
            file, ": ", name, ": the model's q_proj and k_proj have ", shape.rows[0], " and ",
            shape.rows[1], " outputs; adapters need multiples of ", kLoraPanel));
      }
      any = true;
    }
  }
  if (!any) {
    return absl::InvalidArgumentError(absl::StrCat(
        file, ": holds no tensors",
        num_left_out_ == 0 ? ""
                           : " of the language model, only of the other parts of a multimodal "
                             "model, which are left out"));
  }
  return absl::OkStatus();
}

int32_t PeftAdapter::max_rank() const { return *std::max_element(ranks_.begin(), ranks_.end()); }

Sha256Digest PeftAdapter::ContentHash() const {
  Sha256 sha;
  for (size_t i = 0; i < matrices_.size(); ++i) {
    if (ranks_[i] == 0) continue;
    const Matrices& matrices = matrices_[i];
    sha.AddNumber(i);
    sha.AddNumber(static_cast<uint64_t>(ranks_[i]));
    sha.Add(&matrices.scale, sizeof(matrices.scale));
    for (const StoredTensor* const tensor : {matrices.a, matrices.b}) {
      sha.AddField(DTypeName(*tensor->dtype));
      sha.AddField({tensor->data, static_cast<size_t>(tensor->num_bytes)});
    }
  }
  return sha.Finish();
}

LoraTensors PeftAdapter::Read(int layer, LoraTarget target, float weight) const {
  const Matrices& matrices = matrices_[Index(layer, target)];
  LoraTensors tensors;
  tensors.rank = ranks_[Index(layer, target)];
  CHECK_GT(tensors.rank, 0);
  tensors.a = ReadFloats(*matrices.a);
  tensors.b = ReadFloats(*matrices.b);
  tensors.scales.assign(static_cast<size_t>(tensors.rank), matrices.scale * weight);
  return tensors;
}

namespace {

void AddTensors(const LoraTensors& tensors, Sha256* sha) {
  for (const std::vector<float>* const floats : {&tensors.a, &tensors.b, &tensors.scales}) {
    sha->AddField({reinterpret_cast<const char*>(floats->data()), floats->size() * sizeof(float)});
  }
}

}  // namespace

absl::StatusOr<AdapterLayout> PlanImage(const ModelSpec& spec, const std::vector<int32_t>& ranks,
                                        DType dtype, int64_t page_bytes) {
  AdapterLayout layout = PlanAdapter(LoraShapeOf(spec), ranks, dtype, page_bytes);
  if (layout.num_pages > 0) return layout;
  return absl::ResourceExhaustedError(
      absl::StrCat("a row of the adapter is larger than a page of ", page_bytes, " bytes"));
}

absl::StatusOr<AdapterImage> BuildAdapterImage(const ModelSpec& spec,
                                               const std::vector<WeightedAdapter>& adapters,
                                               DType dtype, int64_t page_bytes, int32_t max_rank,
                                               Sha256* nearest) {
  const LoraShape shape = LoraShapeOf(spec);
  std::vector<int32_t> ranks(static_cast<size_t>(spec.num_layers) * kNumLoraTargets, 0);
  for (const WeightedAdapter& of : adapters) {
    for (size_t i = 0; i < ranks.size(); ++i) ranks[i] += of.adapter->ranks()[i];
  }
  if (max_rank > 0) {
    for (int32_t& rank : ranks) rank = std::min(rank, max_rank);
  }
  AdapterImage image;
  ASSIGN_OR_RETURN(image.layout, PlanImage(spec, ranks, dtype, page_bytes));
  image.pages.resize(static_cast<size_t>(image.layout.num_pages * page_bytes));
  for (int layer = 0; layer < spec.num_layers; ++layer) {
    for (int t = 0; t < kNumLoraTargets; ++t) {
      const LoraTarget target = static_cast<LoraTarget>(t);
      const int32_t rank = image.layout.at(layer, target).rank;
      if (rank == 0) continue;
      LoraTensors tensors = Concatenate(adapters, layer, target, shape.rows[t]);
      if (rank < tensors.rank) {
        auto truncated = TruncateRank(tensors, shape.rows[t], shape.cols[t], rank);
        if (!truncated.ok()) {
          return absl::Status(
              truncated.status().code(),
              absl::StrCat(LoraModuleName(layer, target), ": ", truncated.status().message()));
        }
        tensors = *std::move(truncated);
        if (nearest != nullptr) AddTensors(tensors, nearest);
      }
      PlaceMatrices(image.layout, shape, layer, target, tensors, image.pages.data());
    }
  }
  return image;
}

}  // namespace tessera
