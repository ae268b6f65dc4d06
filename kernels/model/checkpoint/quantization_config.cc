#include "kernels/model/checkpoint/quantization_config.h"

#include <algorithm>
#include <optional>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/device/weight_format.h"
#include "kernels/model/checkpoint/json_file.h"
#include "kernels/model/checkpoint/quantization_targets.h"

namespace tessera {
namespace {

constexpr char kInstead[] =
    "use another checkpoint of the model, or its original weights with --dtype int8, int5 or int4";
constexpr int64_t kMaxBits = 64;

std::string Supported(absl::string_view what) {
  return absl::StrCat("supported ", what, "; ", kInstead);
}

int32_t ReadBits(const JsonFile& config, absl::string_view key) {
  const int64_t bits = config.Int(key, 1, kMaxBits);
  if (bits != 4 && bits != 8) config.Fail(key, Supported("are 4 and 8"));
  return static_cast<int32_t>(bits);
}

// Reads a group size. The file's -1, one group for the whole row, becomes 0.
int32_t ReadGroupSize(const JsonFile& config, absl::string_view key,
                      std::optional<int64_t> fallback = std::nullopt) {
  const int64_t size = config.Int(key, -1, kMaxQuantizedCols, fallback);
  if (size == -1) return 0;
  if (size == 0 || size % kGroupGranule != 0) {
    config.Fail(key, Supported(absl::StrCat("are -1 and multiples of ", kGroupGranule)));
  }
  return static_cast<int32_t>(size);
}

// Whether GPTQModel wrote the checkpoint: it writes its name into meta.quantizer
// ("gptqmodel:1.4.0").
bool IsMadeByGptqModel(const JsonFile& config) {
  const std::optional<JsonFile> meta = config.Object("meta");
  if (!meta.has_value()) return false;
  const std::vector<std::string> quantizers = meta->Strings("quantizer");
  return std::any_of(quantizers.begin(), quantizers.end(), [](const std::string& name) {
    return absl::StartsWithIgnoreCase(name, "gptqmodel");
  });
}

void ReadGptq(const JsonFile& config, QuantizationSpec* spec) {
  spec->grids = {{ReadBits(config, "bits"), ReadGroupSize(config, "group_size", -1), false,
                  config.Bool("desc_act", false)}};
  const char* key = config.Has("checkpoint_format") ? "checkpoint_format" : "format";
  const std::string format = config.String(key, "gptq");
  if (format != "gptq" && format != "gptq_v2") {
    config.Fail(key, Supported("are gptq and gptq_v2"));
  }
  if (format == "gptq") {
    spec->gptq_zeros = IsMadeByGptqModel(config) ? GptqZeros::kMinusOneWord : GptqZeros::kMinusOne;
  }
  if (config.Bool("is_marlin_format", false)) {
    config.Fail("is_marlin_format", Supported("is false, the gptq layout"));
  }
  if (config.String("pack_dtype", "int32") != "int32") {
    config.Fail("pack_dtype", Supported("is int32"));
  }
  const std::optional<JsonFile> dynamic = config.Object("dynamic");
  const std::vector<std::string> rules =
      dynamic.has_value() ? dynamic->Keys() : std::vector<std::string>();
  for (const std::string& rule : rules) {
    if (absl::StartsWith(rule, "-:")) continue;  // modules left as floats, as their tensors show
    config.Fail("dynamic", Supported("are rules that begin with -:"));
    return;
  }
}

void ReadAwq(const JsonFile& config, QuantizationSpec* spec) {
  const char* bits_key = config.Has("bits") ? "bits" : "w_bit";
  const char* group_key = config.Has("group_size") ? "group_size" : "q_group_size";
  spec->grids = {{ReadBits(config, bits_key), ReadGroupSize(config, group_key), false}};
  if (spec->grids[0].bits != 4) config.Fail(bits_key, Supported("by AWQ is 4"));
  if (absl::AsciiStrToLower(config.String("version", "gemm")) != "gemm") {
    config.Fail("version", Supported("is gemm"));
  }
  if (!config.Bool("zero_point", true)) config.Fail("zero_point", Supported("is true"));
}

// Returns whether the group's modules quantise activations. The backends quantise activations to
// int8 with one scale for each token, computed in the step; nothing else is supported.
bool ReadActivations(const JsonFile& group) {
  if (group.Has("output_activations")) {
    group.Fail("output_activations", Supported("is null"));
  }
  const std::optional<JsonFile> input = group.Object("input_activations");
  if (!input.has_value()) return false;
  if (input->String("type", "int") != "int") input->Fail("type", Supported("is int"));
  if (input->Int("num_bits", 1, kMaxBits, 8) != 8) input->Fail("num_bits", Supported("is 8"));
  if (!input->Bool("dynamic", false)) {
    input->Fail("dynamic", Supported("is true: scales of activations are not read"));
  }
  if (input->String("strategy", "token") != "token") {
    input->Fail("strategy", Supported("is token"));
  }
  if (!input->Bool("symmetric", true)) input->Fail("symmetric", Supported("is true"));
  return true;
}

QuantGrid ReadWeightGrid(const JsonFile& weights) {
  QuantGrid grid;
  if (weights.String("type", "int") != "int") weights.Fail("type", Supported("is int"));
  grid.bits = ReadBits(weights, "num_bits");
  if (weights.Bool("dynamic", false)) weights.Fail("dynamic", Supported("is false"));
  // Without a strategy, group_size implies it.
  const int64_t group_size = weights.Int("group_size", -1, kMaxQuantizedCols, 0);
  const char* implied = group_size > 0 ? "group" : group_size == -1 ? "channel" : "tensor";
  const std::string strategy = weights.String("strategy", implied);
  if (strategy == "group") {
    grid.group_size = ReadGroupSize(weights, "group_size");
  } else if (strategy != "channel") {
    weights.Fail("strategy", Supported("are channel and group"));
  }
  // With "weight" and "static", a group is still a run of consecutive inputs.
  const std::string order = weights.String("actorder", "weight");
  grid.needs_group_index = order == "group" || order == "dynamic";
  return grid;
}

// Reads a config group of compressed-tensors. `format` is that of the whole file.
QuantGrid ReadGroup(const JsonFile& config, const JsonFile& group, const std::string& format) {
  const bool own_format = group.Has("format");
  const std::string group_format = own_format ? group.String("format", "") : format;
  if (group_format != "pack-quantized" && group_format != "int-quantized") {
    (own_format ? group : config).Fail("format", Supported("are pack-quantized and int-quantized"));
  }
  const bool int8_activations = ReadActivations(group);
  const std::optional<JsonFile> weights = group.Object("weights");
  if (!weights.has_value()) {
    group.Fail("weights", absl::StrCat("must say how weights are quantised; ", kInstead));
    return {};
  }
  QuantGrid grid = ReadWeightGrid(*weights);
  grid.int8_activations = int8_activations;
  return grid;
}

// Reads the config groups' grids and what the groups quantise.
void ReadGroups(const JsonFile& config, QuantizationSpec* spec, QuantizationTargets* targets) {
  const std::string format = config.String("format", "");
  const std::optional<JsonFile> groups = config.Object("config_groups");
  if (groups.has_value()) spec->group_names = groups->Keys();
  for (const std::string& name : spec->group_names) {
    const std::optional<JsonFile> group = groups->Object(name);
    if (!group.has_value()) return;
    if (!group->Has("targets")) group->Fail("targets", "must list the modules of the group");
    for (const std::string& target : group->Strings("targets")) {
      const absl::Status status =
          targets->AddTarget(target, static_cast<int32_t>(spec->grids.size()));
      if (!status.ok()) group->Fail("targets", status.message());
    }
    spec->grids.push_back(ReadGroup(config, *group, format));
  }
  if (spec->grids.empty()) {
    config.Fail("config_groups", absl::StrCat("must say how weights are quantised; ", kInstead));
  }
  for (const std::string& ignored : config.Strings("ignore")) {
    const absl::Status status = targets->AddIgnored(ignored);
    if (!status.ok()) config.Fail("ignore", status.message());
  }
}

void ReadCompressedTensors(const JsonFile& config, const std::vector<ModuleName>& modules,
                           bool multimodal, QuantizationSpec* spec) {
  if (config.Has("kv_cache_scheme")) config.Fail("kv_cache_scheme", Supported("is null"));
  for (const char* key : {"sparsity_config", "transform_config"}) {
    const std::optional<JsonFile> object = config.Object(key);
    if (!object.has_value() || object->Keys().empty()) continue;
    if (object->String("format", "") != "dense") config.Fail(key, Supported("is none"));
  }
  QuantizationTargets targets(multimodal);
  ReadGroups(config, spec, &targets);
  if (!config.status().ok()) return;
  for (const ModuleName& module : modules) {
    const absl::StatusOr<std::optional<int32_t>> group = targets.GroupOf(module);
    if (!group.ok()) {
      config.Fail("config_groups", group.status().message());
      return;
    }
    if (group->has_value()) spec->grid_of.emplace(module.name, **group);
  }
}

}  // namespace

const char* QuantMethodName(QuantMethod method) {
  switch (method) {
    case QuantMethod::kNone:
      return "none";
    case QuantMethod::kGptq:
      return "gptq";
    case QuantMethod::kAwq:
      return "awq";
    case QuantMethod::kCompressedTensors:
      return "compressed-tensors";
  }
  return "?";
}

QuantizationSpec ReadQuantization(const JsonFile& config, const std::vector<ModuleName>& modules,
                                  bool multimodal) {
  // Early versions of transformers used the key compression_config for compressed-tensors.
  const char* key =
      config.Has("quantization_config") ? "quantization_config" : "compression_config";
  QuantizationSpec spec;
  const std::optional<JsonFile> quantization = config.Object(key);
  if (!quantization.has_value()) return spec;
  const std::string method = quantization->String("quant_method", "");
  if (method == QuantMethodName(QuantMethod::kGptq)) {
    spec.method = QuantMethod::kGptq;
    ReadGptq(*quantization, &spec);
  } else if (method == QuantMethodName(QuantMethod::kAwq)) {
    spec.method = QuantMethod::kAwq;
    ReadAwq(*quantization, &spec);
  } else if (method == QuantMethodName(QuantMethod::kCompressedTensors)) {
    spec.method = QuantMethod::kCompressedTensors;
    ReadCompressedTensors(*quantization, modules, multimodal, &spec);
  } else {
    quantization->Fail("quant_method", Supported("are gptq, awq and compressed-tensors"));
  }
  return spec;
}

}  // namespace tessera
