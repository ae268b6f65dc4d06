// The rule by which compressed-tensors decides which of a checkpoint's config groups quantises a
// module. The targets of a group and the entries of `ignore` are names of modules, regular
// expressions ("re:.*mlp.*", compared from the first character of a name on) or names of modules'
// classes ("Linear"). ReadQuantization (quantization_config.h) makes a QuantizationTargets, asks
// for each module of the model and forgets it. One thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/model/checkpoint/name_pattern.h"

namespace tessera {

// A module that has a weight matrix.
struct ModuleName {
  std::string name;           // in a model of text alone: "model.layers.0.mlp.up_proj"
  bool is_embedding = false;  // if not, the module is a linear
};

class QuantizationTargets final {
 public:
  // Largest number of targets and entries of `ignore`. A checkpoint whose bits were chosen for each
  // module names all of them: 882 in a model of 126 layers.
  static constexpr size_t kMaxTargets = 4096;

  // The result for a module that an entry of `ignore` matches.
  static constexpr int32_t kIgnored = -1;

  // `multimodal`: the model is the language model of a multimodal one. The names that its modules
  // have there are then compared too.
  explicit QuantizationTargets(bool multimodal) : multimodal_(multimodal) {}

  // Errors quote the text and say what is wrong with it: it is no regular expression, a target of
  // another group, or one too many. REQUIRES: group >= 0.
  absl::Status AddTarget(const std::string& text, int32_t group);
  absl::Status AddIgnored(const std::string& text);

  // The config group that quantises the module. An entry of `ignore` that matches wins over all
  // targets. Else the first target that matches decides: names of modules come first, then regular
  // expressions, then classes, each in alphabetical order. nullopt: nothing matches.
  // INVALID_ARGUMENT: a regular expression takes too many steps.
  absl::StatusOr<std::optional<int32_t>> GroupOf(const ModuleName& module) const;

 private:
  // A target or an entry of `ignore`.
  struct Target {
    std::string text;
    int32_t group = kIgnored;
    std::optional<NamePattern> pattern;  // of a regular expression
    bool negative = false;               // the expression has a negative look-around
  };

  static absl::StatusOr<Target> Make(const std::string& text, int32_t group);
  static bool Precedes(const Target& a, const Target& b);
  absl::Status CheckRoom() const;
  std::vector<std::string> NamesOf(const Target& target, const ModuleName& module) const;
  absl::StatusOr<bool> MatchesName(const Target& target, const ModuleName& module) const;

  bool multimodal_;
  std::vector<Target> targets_;  // in the order of their precedence
  std::vector<Target> ignored_;
};

}  // namespace tessera
