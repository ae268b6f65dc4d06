#include "kernels/model/checkpoint/quantization_targets.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kernels/base/status.h"
#include "kernels/model/checkpoint/safetensors.h"

namespace tessera {
namespace {

constexpr absl::string_view kRegex = "re:";
constexpr absl::string_view kWeight = ".weight";
// Backtracking steps of one comparison. The names of a multimodal model's modules have up to 60
// characters; an expression with three wildcards takes some thousand steps.
constexpr uint32_t kMaxSteps = 10'000;

// Linears that vLLM runs as one. A target that is written for vLLM may name the fused module.
constexpr std::pair<absl::string_view, absl::string_view> kFused[] = {
    {"q_proj", "qkv_proj"},        {"k_proj", "qkv_proj"},      {"v_proj", "qkv_proj"},
    {"gate_proj", "gate_up_proj"}, {"up_proj", "gate_up_proj"},
};

// Whether the target is the name of one of the module's classes in PyTorch.
bool MatchesClass(const std::string& target, const ModuleName& module) {
  return target == (module.is_embedding ? "Embedding" : "Linear") || target == "Module";
}

absl::Status Of(const std::string& text, const absl::Status& status) {
  return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" ", status.message()));
}

}  // namespace

absl::StatusOr<QuantizationTargets::Target> QuantizationTargets::Make(const std::string& text,
                                                                      int32_t group) {
  Target target;
  target.text = text;
  target.group = group;
  absl::string_view expression = text;
  if (!absl::ConsumePrefix(&expression, kRegex)) return target;
  absl::StatusOr<NamePattern> pattern = NamePattern::Compile(expression, kMaxSteps);
  if (!pattern.ok()) return Of(text, pattern.status());
  target.pattern = *std::move(pattern);
  target.negative = absl::StrContains(expression, "(?!") || absl::StrContains(expression, "(?<!");
  return target;
}

absl::Status QuantizationTargets::CheckRoom() const {
  if (targets_.size() + ignored_.size() < kMaxTargets) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("targets and ignore have more than ", kMaxTargets,
                                                 " entries; write regular expressions"));
}

absl::Status QuantizationTargets::AddTarget(const std::string& text, int32_t group) {
  RETURN_IF_ERROR(CheckRoom());
  ASSIGN_OR_RETURN(Target target, Make(text, group));
  const auto at = std::lower_bound(targets_.begin(), targets_.end(), target, &Precedes);
  if (at == targets_.end() || Precedes(target, *at)) {
    targets_.insert(at, std::move(target));
  } else if (at->group != group) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" is a target of two groups; keep it in one of them"));
  }
  return absl::OkStatus();
}

absl::Status QuantizationTargets::AddIgnored(const std::string& text) {
  RETURN_IF_ERROR(CheckRoom());
  ASSIGN_OR_RETURN(Target target, Make(text, kIgnored));
  ignored_.push_back(std::move(target));
  return absl::OkStatus();
}

bool QuantizationTargets::Precedes(const Target& a, const Target& b) {
  if (a.pattern.has_value() != b.pattern.has_value()) return b.pattern.has_value();
  return a.text < b.text;
}

// The names under which the target may know the module.
std::vector<std::string> QuantizationTargets::NamesOf(const Target& target,
                                                      const ModuleName& module) const {
  std::vector<std::string> names = {module.name};
  for (const auto& [part, fused] : kFused) {
    // A target that does not name the fused module is never compared with it, because an expression
    // that is written to spare a part ("re:(?!.*q_proj).*") would match.
    absl::string_view name = module.name;
    if (!absl::StrContains(target.text, fused) || !absl::ConsumeSuffix(&name, part)) continue;
    names.push_back(absl::StrCat(name, fused));
  }
  if (!multimodal_) return names;
  for (const std::string& name : std::vector<std::string>(names)) {
    for (const std::string& tensor : NamesInMultimodalModel(absl::StrCat(name, kWeight))) {
      names.emplace_back(absl::StripSuffix(tensor, kWeight));
    }
  }
  return names;
}

// Whether one of the module's names matches. With a negative look-around all names must match: an
// expression that is written to spare the language model ("re:(?!.*language_model).*") would match
// the name that the module has in a model of text alone.
absl::StatusOr<bool> QuantizationTargets::MatchesName(const Target& target,
                                                      const ModuleName& module) const {
  for (const std::string& name : NamesOf(target, module)) {
    bool matches = name == target.text;
    if (target.pattern.has_value()) {
      const absl::StatusOr<bool> found = target.pattern->MatchesStart(name);
      if (!found.ok()) return Of(target.text, found.status());
      matches = *found;
    }
    if (matches != target.negative) return matches;
  }
  return target.negative;
}

absl::StatusOr<std::optional<int32_t>> QuantizationTargets::GroupOf(
    const ModuleName& module) const {
  for (const Target& target : ignored_) {
    ASSIGN_OR_RETURN(const bool matches, MatchesName(target, module));
    if (matches || MatchesClass(target.text, module)) return kIgnored;
  }
  for (const Target& target : targets_) {
    ASSIGN_OR_RETURN(const bool matches, MatchesName(target, module));
    if (matches) return target.group;
  }
  for (const Target& target : targets_) {
    if (MatchesClass(target.text, module)) return target.group;
  }
  return std::nullopt;
}

}  // namespace tessera
