#include "kernels/model/checkpoint/families.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "kernels/base/foreign_file.h"
#include "kernels/base/status.h"
#include "kernels/model/checkpoint/json_file.h"
#include "kernels/model/checkpoint/model_folder.h"
#include "kernels/model/checkpoint/rope.h"
#include "kernels/model/checkpoint/weight_table.h"
#include "kernels/model/kv_groups.h"

namespace tessera {
namespace {

constexpr int64_t kMaxHidden = 65'536;
constexpr int64_t kMaxIntermediate = 1 << 20;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeads = 1024;
constexpr int64_t kMaxHeadDim = 1024;
constexpr int64_t kMaxVocab = 4 << 20;
constexpr int64_t kMaxPositions = 16 << 20;
constexpr double kMaxTheta = 1e15;
constexpr double kMaxRopeFactor = 1e6;
constexpr int64_t kNoToken = -1;  // how published files write that the model has no such token
constexpr char kFull[] = "full_attention";
constexpr char kSliding[] = "sliding_attention";

// What absent keys mean, as in Hugging Face's configuration classes. 0: the key must be present,
// unless a comment says what 0 means.
struct Defaults {
  int64_t kv_heads = 0;  // 0: equal to the number of query heads
  int64_t window = 0;    // tokens; 0: no sliding window
  int64_t heads = 0;
  int64_t head_dim = 0;  // 0: hidden_size / num_attention_heads
  int64_t vocab = 0;
  int64_t positions = 0;
  bool tied = false;
  const char* activation_key = "hidden_act";
  const char* activation = "silu";
  double theta = 10'000.0;
  double local_theta = 0.0;  // theta of the layers with a window; 0: that of all layers
};

struct Family {
  const char* name;
  const char* architecture;
  Defaults defaults;
  // Reads the keys that only this family has. Fills `windows` [layers] with the layers' sliding
  // windows, 0 for full attention.
  void (*read)(const JsonFile& config, int32_t window, ModelSpec* spec,
               std::vector<int32_t>* windows);
  // The model is the text part of a multimodal model: its keys lie in `text_config`, except those
  // of tokens, types and quantisation.
  bool multimodal = false;
};

void ReadLlama(const JsonFile& config, int32_t window, ModelSpec* spec,
               std::vector<int32_t>* windows) {
  spec->qkv_bias = config.Bool("attention_bias", false);
  spec->o_bias = spec->qkv_bias;
  spec->mlp_bias = config.Bool("mlp_bias", false);
}

void ReadMistral(const JsonFile& config, int32_t window, ModelSpec* spec,
                 std::vector<int32_t>* windows) {
  std::fill(windows->begin(), windows->end(), window);
}

void ReadQwen2(const JsonFile& config, int32_t window, ModelSpec* spec,
               std::vector<int32_t>* windows) {
  spec->qkv_bias = true;
  if (!config.Bool("use_sliding_window", false) || window == 0) return;
  const int64_t num_full = config.Int("max_window_layers", 0, kMaxLayers, 28);
  for (int64_t layer = num_full; layer < spec->num_layers; ++layer) (*windows)[layer] = window;
}

void ReadQwen3(const JsonFile& config, int32_t window, ModelSpec* spec,
               std::vector<int32_t>* windows) {
  ReadQwen2(config, window, spec, windows);
  spec->qkv_bias = config.Bool("attention_bias", false);
  spec->o_bias = spec->qkv_bias;
  spec->qk_norm = true;
}

// What Gemma 2 and 3 have in common. Every `pattern`-th layer has full attention, the others have a
// window.
void ReadGemma(const JsonFile& config, int32_t window, int64_t pattern, ModelSpec* spec,
               std::vector<int32_t>* windows) {
  constexpr double kMaxScale = 1e6;
  spec->norm_plus_one = true;
  spec->post_norms = true;
  spec->qkv_bias = config.Bool("attention_bias", false);
  spec->o_bias = spec->qkv_bias;
  spec->embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(spec->hidden)));
  const double scalar = config.Number("query_pre_attn_scalar", 1e-6, kMaxScale, 256.0);
  spec->attention_scale = static_cast<float>(1.0 / std::sqrt(scalar));
  if (config.Bool("use_bidirectional_attention", false)) {
    config.Fail("use_bidirectional_attention", "only causal attention is supported");
  }
  if (window == 0) return;
  for (int64_t layer = 0; layer < spec->num_layers; ++layer) {
    (*windows)[static_cast<size_t>(layer)] = (layer + 1) % pattern == 0 ? 0 : window;
  }
}

// Reads a soft cap; null turns it off.
float ReadSoftcap(const JsonFile& config, absl::string_view key, double fallback) {
  constexpr double kMaxSoftcap = 1e6;
  if (config.IsNull(key)) return 0.0f;
  return static_cast<float>(config.Number(key, 0.0, kMaxSoftcap, fallback));
}

void ReadGemma2(const JsonFile& config, int32_t window, ModelSpec* spec,
                std::vector<int32_t>* windows) {
  ReadGemma(config, window, /*pattern=*/2, spec, windows);
  spec->attention_softcap = ReadSoftcap(config, "attn_logit_softcapping", 50.0);
  spec->logit_softcap = ReadSoftcap(config, "final_logit_softcapping", 30.0);
}

void ReadGemma3(const JsonFile& config, int32_t window, ModelSpec* spec,
                std::vector<int32_t>* windows) {
  ReadGemma(config, window, config.Int("sliding_window_pattern", 1, kMaxLayers, 6), spec, windows);
  spec->qk_norm = true;
  spec->logit_softcap = ReadSoftcap(config, "final_logit_softcapping", 0.0);
  if (config.Has("attn_logit_softcapping")) {
    config.Fail("attn_logit_softcapping", "Gemma 3 has none: it must be null");
  }
}

// The defaults of a family that names only these three.
constexpr Defaults WithWindow(int64_t kv_heads, int64_t window, int64_t head_dim = 0) {
  Defaults defaults;
  defaults.kv_heads = kv_heads;
  defaults.window = window;
  defaults.head_dim = head_dim;
  return defaults;
}

constexpr Defaults Gemma(int64_t vocab, int64_t positions) {
  Defaults defaults = WithWindow(4, 4096, 256);
  defaults.heads = 8;
  defaults.vocab = vocab;
  defaults.positions = positions;
  defaults.tied = true;
  defaults.activation_key = "hidden_activation";
  defaults.activation = "gelu_pytorch_tanh";
  return defaults;
}

constexpr Defaults Gemma3() {
  Defaults defaults = Gemma(262'208, 131'072);
  defaults.theta = 1'000'000.0;
  defaults.local_theta = 10'000.0;
  return defaults;
}

constexpr Family kFamilies[] = {
    {"llama", "LlamaForCausalLM", {}, &ReadLlama},
    {"mistral", "MistralForCausalLM", WithWindow(8, 4096), &ReadMistral},
    {"qwen2", "Qwen2ForCausalLM", WithWindow(32, 4096), &ReadQwen2},
    {"qwen3", "Qwen3ForCausalLM", WithWindow(32, 4096, 128), &ReadQwen3},
    {"gemma2", "Gemma2ForCausalLM", Gemma(256'000, 8192), &ReadGemma2},
    {"gemma3_text", "Gemma3ForCausalLM", Gemma3(), &ReadGemma3},
    {"gemma3", "Gemma3ForConditionalGeneration", Gemma3(), &ReadGemma3, /*multimodal=*/true},
};

const Family* FindFamily(const JsonFile& config) {
  std::vector<std::string> supported;
  const bool by_architecture = config.Has("architectures");
  const std::vector<std::string> named =
      by_architecture ? config.Strings("architectures")
                      : std::vector<std::string>{config.String("model_type", "")};
  for (const Family& family : kFamilies) {
    const std::string key = by_architecture ? family.architecture : family.name;
    if (std::find(named.begin(), named.end(), key) != named.end()) return &family;
    supported.push_back(key);
  }
  config.Fail(by_architecture || !config.Has("model_type") ? "architectures" : "model_type",
              absl::StrCat("supported are ", absl::StrJoin(supported, ", "),
                           ": serve a model of one of these families (Llama 2 and 3, Mistral, "
                           "Qwen2, 2.5 and 3, Gemma 2 and 3)"));
  return nullptr;
}

// 0 in Defaults: the key has no default.
std::optional<int64_t> DefaultOr(int64_t value) {
  return value > 0 ? std::optional<int64_t>(value) : std::nullopt;
}

void ReadShape(const JsonFile& config, const Defaults& defaults, ModelSpec* spec) {
  spec->hidden = config.Int("hidden_size", 1, kMaxHidden);
  spec->intermediate = config.Int("intermediate_size", 1, kMaxIntermediate);
  spec->vocab_size = config.Int("vocab_size", 1, kMaxVocab, DefaultOr(defaults.vocab));
  spec->num_layers = static_cast<int32_t>(config.Int("num_hidden_layers", 1, kMaxLayers));
  spec->heads = static_cast<int32_t>(
      config.Int("num_attention_heads", 1, kMaxHeads, DefaultOr(defaults.heads)));
  const bool is_null = config.IsNull("num_key_value_heads");
  const int64_t kv_default = defaults.kv_heads > 0 && !is_null ? defaults.kv_heads : spec->heads;
  spec->kv_heads =
      static_cast<int32_t>(config.Int("num_key_value_heads", 1, spec->heads, kv_default));
  if (spec->heads % spec->kv_heads != 0) {
    config.Fail("num_key_value_heads",
                absl::StrCat("must divide num_attention_heads ", spec->heads));
  }
  const bool derive = !config.Has("head_dim") && defaults.head_dim == 0;
  if (derive && spec->hidden % spec->heads != 0) {
    config.Fail("hidden_size",
                absl::StrCat("must be a multiple of num_attention_heads ", spec->heads));
  }
  spec->head_dim = static_cast<int32_t>(config.Int(
      "head_dim", 1, kMaxHeadDim, derive ? spec->hidden / spec->heads : defaults.head_dim));
  if (spec->head_dim < 2 || spec->head_dim > kMaxHeadDim || spec->head_dim % 2 != 0) {
    config.Fail(derive ? "num_attention_heads" : "head_dim",
                absl::StrCat("the heads' size must be even and from 2 to ", kMaxHeadDim, ", not ",
                             spec->head_dim));
  }
  spec->max_positions =
      config.Int("max_position_embeddings", 1, kMaxPositions, DefaultOr(defaults.positions));
  spec->norm_eps = static_cast<float>(config.Number("rms_norm_eps", 0.0, 1.0, 1e-6));
  spec->tied_embeddings = config.Bool("tie_word_embeddings", defaults.tied);
  spec->attention_scale =
      static_cast<float>(1.0 / std::sqrt(static_cast<double>(std::max(spec->head_dim, 1))));
}

void ReadActivation(const JsonFile& config, const Defaults& defaults, ModelSpec* spec) {
  const char* key = defaults.activation_key;
  const std::string name = config.String(key, defaults.activation);
  if (name == "silu" || name == "swish") {
    spec->activation = Activation::kSilu;
  } else if (name == "gelu_pytorch_tanh" || name == "gelu_new") {
    spec->activation = Activation::kGeluTanh;
  } else {
    config.Fail(key, "supported are silu and gelu_pytorch_tanh");
  }
}

void ReadStoredDtype(const JsonFile& config, ModelSpec* spec) {
  const char* key = config.Has("dtype") ? "dtype" : "torch_dtype";
  const std::string name(absl::StripPrefix(config.String(key, "float32"), "torch."));
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    if (name != DTypeName(dtype)) continue;
    spec->stored_dtype = dtype;
    return;
  }
  config.Fail(key, "supported are float32, bfloat16 and float16");
}

RopeSpec ReadLlama3Rope(const JsonFile& config, const JsonFile& rope, double theta,
                        const ModelSpec& spec) {
  constexpr char kOriginal[] = "original_max_position_embeddings";
  Llama3Scaling scaling;
  scaling.factor = rope.Number("factor", 1e-6, kMaxRopeFactor);
  scaling.low_freq_factor = rope.Number("low_freq_factor", 1e-6, kMaxRopeFactor);
  scaling.high_freq_factor = rope.Number("high_freq_factor", 1e-6, kMaxRopeFactor);
  const JsonFile& holder = config.Has(kOriginal) ? config : rope;
  scaling.original_positions =
      static_cast<double>(holder.Int(kOriginal, 1, kMaxPositions, spec.max_positions));
  if (scaling.high_freq_factor <= scaling.low_freq_factor) {
    rope.Fail("high_freq_factor",
              absl::StrCat("must be above low_freq_factor ", scaling.low_freq_factor));
    return RopeSpec();
  }
  return Llama3Rope(theta, spec.head_dim, scaling);
}

// Reads the object `rope`, which describes one rotary embedding. Older files have rope_theta in
// `config` instead.
RopeSpec ReadRope(const JsonFile& config, const JsonFile& rope, double default_theta,
                  const ModelSpec& spec) {
  const double theta =
      (rope.Has("rope_theta") ? rope : config).Number("rope_theta", 1e-3, kMaxTheta, default_theta);
  const JsonFile& partial = rope.Has("partial_rotary_factor") ? rope : config;
  if (partial.Number("partial_rotary_factor", 0.0, 1.0, 1.0) != 1.0) {
    partial.Fail("partial_rotary_factor", "only 1 is supported for this architecture");
  }
  const char* key = rope.Has("rope_type") || !rope.Has("type") ? "rope_type" : "type";
  const std::string type = rope.String(key, "default");
  if (!config.status().ok()) return RopeSpec();  // spec.head_dim may be invalid
  if (type == "default") return DefaultRope(theta, spec.head_dim);
  if (type == "linear") {
    return LinearRope(theta, spec.head_dim, rope.Number("factor", 1e-6, kMaxRopeFactor));
  }
  if (type == "llama3") return ReadLlama3Rope(config, rope, theta, spec);
  rope.Fail(key, "this rope type is not supported; supported are default, linear and llama3");
  return RopeSpec();
}

// The rotary embedding of the layers with a window in the older files of a family whose layers of
// the two kinds differ: the base is a key of its own, and `rope_scaling` is not theirs.
RopeSpec ReadLocalRope(const JsonFile& config, double default_theta, const ModelSpec& spec) {
  const double theta = config.Number("rope_local_base_freq", 1e-3, kMaxTheta, default_theta);
  return config.status().ok() ? DefaultRope(theta, spec.head_dim) : RopeSpec();
}

// Reads one rotary embedding for all layers, or one for each kind of layer (transformers 5 nests
// them under the kind's name).
void ReadRopes(const JsonFile& config, const Defaults& defaults,
               const std::vector<int32_t>& windows, ModelSpec* spec) {
  const char* key = config.Has("rope_scaling") ? "rope_scaling" : "rope_parameters";
  const JsonFile rope = config.Object(key).value_or(config.Empty(key));
  const bool nested = rope.Has(kFull) || rope.Has(kSliding);
  if (!nested && defaults.local_theta == 0.0) {
    spec->ropes.push_back(ReadRope(config, rope, defaults.theta, *spec));
    return;
  }
  for (const bool sliding : {false, true}) {
    const char* kind = sliding ? kSliding : kFull;
    const auto is_kind = [sliding](int32_t window) { return (window > 0) == sliding; };
    if (std::none_of(windows.begin(), windows.end(), is_kind)) continue;
    const std::optional<JsonFile> inner = nested ? rope.Object(kind) : rope;
    if (!inner.has_value() && defaults.local_theta == 0.0) {
      rope.Fail(kind, "this kind of layer needs its rotary embedding");
      return;
    }
    for (size_t layer = 0; layer < windows.size(); ++layer) {
      if (is_kind(windows[layer])) spec->layers[layer].rope = static_cast<int>(spec->ropes.size());
    }
    const bool local = sliding && defaults.local_theta > 0.0;
    if (local && !nested) {
      spec->ropes.push_back(ReadLocalRope(config, defaults.local_theta, *spec));
      continue;
    }
    spec->ropes.push_back(ReadRope(config, inner.value_or(rope.Empty(kind)),
                                   local ? defaults.local_theta : defaults.theta, *spec));
  }
}

// Reads `layer_types`, the kind of each layer. It overrides the windows that the family's own keys
// set.
void ReadLayerTypes(const JsonFile& config, int32_t window, std::vector<int32_t>* windows) {
  if (!config.Has("layer_types")) return;
  const std::vector<std::string> types = config.Strings("layer_types");
  if (types.size() != windows->size()) {
    config.Fail("layer_types", absl::StrCat("must have num_hidden_layers ", windows->size(),
                                            " entries, not ", types.size()));
    return;
  }
  for (size_t layer = 0; layer < types.size(); ++layer) {
    const bool sliding = types[layer] == kSliding;
    if (!sliding && types[layer] != kFull) {
      config.Fail("layer_types", absl::StrCat("entry ", layer, " is not supported; supported are ",
                                              kFull, " and ", kSliding));
      return;
    }
    if (sliding && window == 0) {
      config.Fail("sliding_window", absl::StrCat("layer_types has ", kSliding,
                                                 " layers, so it must be a number of tokens"));
      return;
    }
    (*windows)[layer] = sliding ? window : 0;
  }
}

void ReadLayers(const JsonFile& config, const Family& family, ModelSpec* spec) {
  const int64_t fallback = config.IsNull("sliding_window") ? 0 : family.defaults.window;
  int32_t window = config.Has("sliding_window")
                       ? static_cast<int32_t>(config.Int("sliding_window", 1, kMaxPositions))
                       : static_cast<int32_t>(fallback);
  std::vector<int32_t> windows(spec->num_layers, 0);
  family.read(config, window, spec, &windows);
  ReadLayerTypes(config, window, &windows);
  spec->layers.resize(windows.size());
  ReadRopes(config, family.defaults, windows, spec);
  // A window as long as the context never hides a token, so it is full attention.
  for (int32_t& layer_window : windows) {
    if (layer_window >= spec->max_positions) layer_window = 0;
  }
  const KvGrouping grouping = GroupLayers(windows);
  for (size_t layer = 0; layer < windows.size(); ++layer) {
    spec->layers[layer].group = grouping.group[layer];
    spec->layers[layer].layer_in_group = grouping.layer_in_group[layer];
  }
  spec->kv_groups = grouping.groups;
}

void ReadEos(const JsonFile& file, ModelSpec* spec) {
  if (!file.Has("eos_token_id")) return;
  spec->eos_ids.clear();
  for (const int64_t id : file.IntOrList("eos_token_id", kNoToken, spec->vocab_size - 1)) {
    if (id != kNoToken) spec->eos_ids.push_back(static_cast<TokenId>(id));
  }
}

void ReadBos(const JsonFile& file, ModelSpec* spec) {
  if (!file.Has("bos_token_id")) return;
  const int64_t id = file.Int("bos_token_id", kNoToken, spec->vocab_size - 1);
  if (id != kNoToken) spec->bos_id = static_cast<TokenId>(id);
}

// The object with the keys of the text model: the file itself, or its text_config.
absl::StatusOr<JsonFile> TextConfig(const JsonFile& file, const Family& family) {
  if (!family.multimodal) return file;
  std::optional<JsonFile> text = file.Object("text_config");
  if (!text.has_value()) file.Fail("text_config", "this architecture needs its text model");
  RETURN_IF_ERROR(file.status());
  return *std::move(text);
}

// The object that has the key: the file or, in a multimodal model, its text_config.
const JsonFile& HolderOf(absl::string_view key, const JsonFile& file, const JsonFile& text) {
  return file.Has(key) ? file : text;
}

absl::Status ReadGeneration(const JsonFile& file, ModelSpec* spec) {
  GenerationDefaults& defaults = spec->generation;
  constexpr double kMaxFloat = std::numeric_limits<float>::max();
  const auto read = [&file](const char* key, std::optional<float>* out) {
    if (file.Has(key)) *out = static_cast<float>(file.Number(key, -kMaxFloat, kMaxFloat));
  };
  defaults.present = true;
  defaults.do_sample = file.Bool("do_sample", false);
  read("temperature", &defaults.temperature);
  read("top_p", &defaults.top_p);
  read("min_p", &defaults.min_p);
  read("repetition_penalty", &defaults.repetition_penalty);
  if (file.Has("top_k")) {
    defaults.top_k = static_cast<int32_t>(file.Int("top_k", INT32_MIN, INT32_MAX));
  }
  ReadEos(file, spec);
  return file.status();
}

}  // namespace

absl::StatusOr<ModelSpec> ParseModelSpec(const std::string& config_name,
                                         absl::string_view config_json,
                                         const std::string& generation_name,
                                         absl::string_view generation_json) {
  ASSIGN_OR_RETURN(const JsonFile file, JsonFile::Parse(config_name, config_json));
  const Family* const family = FindFamily(file);
  if (family == nullptr) return file.status();
  const absl::StatusOr<JsonFile> config = TextConfig(file, *family);
  RETURN_IF_ERROR(config.status());
  ModelSpec spec;
  spec.family = family->name;
  ReadShape(*config, family->defaults, &spec);
  RETURN_IF_ERROR(file.status());
  ReadActivation(*config, family->defaults, &spec);
  ReadLayers(*config, *family, &spec);
  ReadStoredDtype(HolderOf(file.Has("dtype") ? "dtype" : "torch_dtype", file, *config), &spec);
  spec.quantization = ReadQuantization(file, MatrixModules(spec.num_layers), family->multimodal);
  ReadEos(HolderOf("eos_token_id", file, *config), &spec);
  ReadBos(HolderOf("bos_token_id", file, *config), &spec);
  RETURN_IF_ERROR(file.status());
  if (generation_json.empty()) return spec;
  ASSIGN_OR_RETURN(const JsonFile generation, JsonFile::Parse(generation_name, generation_json));
  RETURN_IF_ERROR(ReadGeneration(generation, &spec));
  return spec;
}

absl::StatusOr<ModelSpec> LoadModelSpec(const std::string& dir) {
  const std::string config_name = absl::StrCat(dir, "/config.json");
  const std::string generation_name = absl::StrCat(dir, "/generation_config.json");
  const ForeignFileOptions options{.max_bytes = kMaxJsonBytes, .roots = {}};
  const absl::StatusOr<std::string> config = ReadForeignFile(config_name, options);
  if (!config.ok()) return NoModelConfig(dir, config.status());
  absl::StatusOr<std::string> generation = ReadForeignFile(generation_name, options);
  if (absl::IsNotFound(generation.status())) generation = std::string();
  RETURN_IF_ERROR(generation.status());
  return ParseModelSpec(config_name, *config, generation_name, *generation);
}

PageLayout MakePageLayout(const ModelSpec& spec, DType kv_dtype, int32_t page_tokens) {
  PageLayout layout;
  for (const KvGroupSpec& group : spec.kv_groups) {
    layout.groups.push_back({group.num_layers, spec.kv_heads, spec.head_dim, page_tokens, kv_dtype,
                             group.window, group.num_layers});
  }
  for (const LayerSpec& layer : spec.layers) --layout.groups[layer.group].num_padding_layers;
  return layout;
}

}  // namespace tessera
