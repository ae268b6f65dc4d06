#include "kernels/model/lora/peft_config.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/foreign_file.h"
#include "kernels/base/status.h"
#include "kernels/model/checkpoint/json_file.h"
#include "kernels/model/checkpoint/name_pattern.h"
#include "kernels/model/lora/peft.h"

namespace tessera {
namespace {

// Backtracking steps of one comparison. A hostile file has all patterns at this limit.
constexpr uint32_t kMaxSteps = 1000;
// An adapter whose ranks were chosen by the training has one for each module: 882 in a model of 126
// layers.
constexpr size_t kMaxPatterns = 1024;
constexpr double kMaxAlpha = 1e6;

// Keys that Open reads.
constexpr absl::string_view kRead[] = {
    "alpha_pattern",       "bias",           "exclude_modules", "init_lora_weights",
    "layers_to_transform", "lora_alpha",     "peft_type",       "r",
    "rank_pattern",        "target_modules", "use_rslora",
};

// Keys of PEFT's LoraConfig that do not change what a finished adapter computes.
constexpr absl::string_view kHarmless[] = {
    "auto_mapping",  "base_model_name_or_path", "corda_config",    "ensure_weight_tying",
    "eva_config",    "inference_mode",          "layers_pattern",  "loftq_config",
    "lora_dropout",  "lora_ga_config",          "megatron_config", "megatron_core",
    "merge_weights", "monteclora_config",       "peft_version",    "qalora_group_size",
    "revision",      "runtime_config",          "task_type",       "velora_config",
};

// Keys that must be absent, null, false or empty. With any other value the adapter computes
// something that Tessera does not support.
struct Refused {
  absl::string_view key;
  const char* what;
};
constexpr Refused kRefused[] = {
    {"use_dora", "DoRA adapters are not supported; train with use_dora=False"},
    {"fan_in_fan_out",
     "transposed linears (GPT-2's Conv1D) are not supported; the adapter is for another "
     "architecture"},
    {"modules_to_save",
     "whole modules beside the adapter are not supported; train with modules_to_save=None"},
    {"lora_bias", "biases of adapters are not supported; train with lora_bias=False"},
    {"trainable_token_indices",
     "trained token embeddings are not supported; train with trainable_token_indices=None"},
    {"layer_replication", "replicated layers are not supported; train without layer_replication"},
    {"target_parameters",
     "adapters of bare parameters are not supported; train with target_modules instead"},
    {"use_qalora", "QA-LoRA is not supported; train with use_qalora=False"},
    {"use_bdlora", "block-diagonal LoRA is not supported; train with use_bdlora=None"},
    {"kasa_config", "KaSA is not supported; train with kasa_config=None"},
    {"alora_invocation_tokens",
     "activated LoRA is not supported; train with alora_invocation_tokens=None"},
    {"arrow_config", "Arrow routing is not supported; register the experts one by one"},
};

// Values of init_lora_weights, in lower case, with which B A is zero before the training and the
// base weights stay as they are.
constexpr absl::string_view kPlainInits[] = {"eva", "gaussian", "mica", "orthogonal"};
// Initialisations that subtract B A from the base weights. The saved adapter belongs to the changed
// weights, unless PEFT converted it; PEFT then saves init_lora_weights as true.
struct MovedInit {
  absl::string_view prefix;  // of the value in lower case
  const char* name;
  bool converts;  // PEFT can convert the adapter
};
constexpr MovedInit kMovedInits[] = {{"corda", "CorDA", true},
                                     {"loftq", "LoftQ", false},
                                     {"lora_ga", "LoRA-GA", true},
                                     {"olora", "OLoRA", true},
                                     {"pissa", "PiSSA", true}};

template <class List>
bool Contains(const List& list, absl::string_view key) {
  return std::find(std::begin(list), std::end(list), key) != std::end(list);
}

void CheckInit(const JsonFile& config) {
  constexpr absl::string_view kKey = "init_lora_weights";
  if (!config.IsString(kKey)) return;
  const std::string init = absl::AsciiStrToLower(config.String(kKey, ""));
  if (Contains(kPlainInits, init)) return;
  for (const MovedInit& moved : kMovedInits) {
    if (!absl::StartsWith(init, moved.prefix)) continue;
    const char* const convert =
        moved.converts ? "save the adapter as plain LoRA by save_pretrained(DIR, "
                         "path_initial_model_for_weight_conversion=FOLDER OF THE UNTRAINED "
                         "ADAPTER), or "
                       : "";
    config.Fail(kKey, absl::StrCat(moved.name,
                                   " changes the base weights, and the adapter is wrong for "
                                   "unchanged ones; ",
                                   convert,
                                   "serve the changed base weights and set init_lora_weights to "
                                   "true"));
    return;
  }
  config.Fail(kKey,
              "this initialisation is not known and may belong to changed base weights; set it to "
              "true if the adapter is plain LoRA of the served base weights");
}

// Refuses unknown keys that look like switches: with a value that is true, a list or an object. All
// variants of LoRA in PEFT are chosen by such values, while a number or a text only describes one.
void CheckUnknown(const JsonFile& config) {
  for (const std::string& key : config.Keys()) {
    if (Contains(kRead, key) || Contains(kHarmless, key) || config.IsOff(key)) continue;
    if (config.IsNumber(key) || config.IsString(key)) continue;
    config.Fail(key,
                "this key is not known and may change what the adapter computes; remove it if it "
                "does not");
  }
}

absl::Status CheckSupported(const JsonFile& config) {
  if (config.String("peft_type", "") != "LORA") {
    config.Fail("peft_type", "only LORA adapters are supported");
  }
  for (const Refused& refused : kRefused) {
    if (!config.IsOff(refused.key)) config.Fail(refused.key, refused.what);
  }
  if (const std::string bias = config.String("bias", "none"); bias != "none") {
    config.Fail("bias", "biases of adapters are not supported; train with bias=\"none\"");
  }
  CheckInit(config);
  CheckUnknown(config);
  return config.status();
}

}  // namespace

PeftConfig::PeftConfig() = default;
PeftConfig::PeftConfig(PeftConfig&&) noexcept = default;
PeftConfig::~PeftConfig() = default;

absl::StatusOr<PeftConfig> PeftConfig::Open(const std::string& path,
                                            const std::vector<std::string>& roots) {
  ASSIGN_OR_RETURN(const std::string text, ReadForeignFile(path, {kMaxJsonBytes, roots}));
  ASSIGN_OR_RETURN(const JsonFile config, JsonFile::Parse(path, text, JsonFile::Values::kHidden));
  RETURN_IF_ERROR(CheckSupported(config));
  PeftConfig result;
  result.rank_ = static_cast<int32_t>(config.Int("r", 1, kMaxLoraRank));
  result.alpha_ = config.Number("lora_alpha", -kMaxAlpha, kMaxAlpha);
  result.rank_stabilised_ = config.Bool("use_rslora", false);
  const auto patterns_of = [&](const char* name, auto* list, const auto& read) {
    const std::optional<JsonFile> patterns = config.Object(name);
    if (!patterns.has_value()) return;
    const std::vector<std::string> keys = patterns->Keys();
    if (keys.size() > kMaxPatterns) {
      config.Fail(name, absl::StrCat("has more than ", kMaxPatterns, " patterns"));
      return;
    }
    for (const std::string& key : keys) {
      // A key must match the whole module name or the end of the module name that follows a dot.
      absl::StatusOr<NamePattern> pattern =
          NamePattern::Compile(absl::StrCat("^(?:.*\\.)?(?:", key, ")$"), kMaxSteps);
      if (!pattern.ok()) {
        patterns->Fail(key, pattern.status().message());
        return;
      }
      list->emplace_back(std::move(*pattern), read(*patterns, key));
    }
  };
  patterns_of("rank_pattern", &result.ranks_, [](const JsonFile& patterns, const std::string& key) {
    return static_cast<int32_t>(patterns.Int(key, 1, kMaxLoraRank));
  });
  patterns_of("alpha_pattern", &result.alphas_,
              [](const JsonFile& patterns, const std::string& key) {
                return patterns.Number(key, -kMaxAlpha, kMaxAlpha);
              });
  const bool some_layers = !config.IsOff("layers_to_transform") || !config.IsOff("exclude_modules");
  if (config.IsList("target_modules") && !some_layers) {
    result.everywhere_ = config.Strings("target_modules");
  }
  RETURN_IF_ERROR(config.status());
  return result;
}

template <class Value>
absl::StatusOr<Value> PeftConfig::Find(const std::vector<std::pair<NamePattern, Value>>& patterns,
                                       const std::string& module, Value otherwise) {
  for (const auto& [pattern, value] : patterns) {
    const absl::StatusOr<bool> matches = pattern.MatchesStart(module);
    if (!matches.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("a key of rank_pattern or alpha_pattern ", matches.status().message()));
    }
    if (*matches) return value;
  }
  return otherwise;
}

absl::StatusOr<int32_t> PeftConfig::RankOf(const std::string& module) const {
  return Find(ranks_, module, rank_);
}

absl::StatusOr<float> PeftConfig::ScaleOf(const std::string& module, int32_t rank) const {
  ASSIGN_OR_RETURN(const double alpha, Find(alphas_, module, alpha_));
  return static_cast<float>(alpha / (rank_stabilised_ ? std::sqrt(rank) : rank));
}

bool PeftConfig::Expects(absl::string_view linear) const {
  return std::find(everywhere_.begin(), everywhere_.end(), linear) != everywhere_.end();
}

}  // namespace tessera
