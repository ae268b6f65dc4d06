// The ranks and scalings that a PEFT adapter's adapter_config.json gives to modules. PeftAdapter
// (peft.cc) makes and owns a PeftConfig while it opens an adapter; nothing else uses this header.
// Immutable after Open; any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/model/checkpoint/name_pattern.h"

namespace tessera {

class PeftConfig final {
 public:
  // Refuses a file whose settings ask for anything but plain LoRA on linears, or have an unknown
  // key that may do so. Errors name keys and show no values, because a client may name any folder.
  // The file must lie below one of `roots` (ForeignFileOptions).
  static absl::StatusOr<PeftConfig> Open(const std::string& path,
                                         const std::vector<std::string>& roots);
  PeftConfig(PeftConfig&&) noexcept;
  ~PeftConfig();

  // The rank of a module ("model.layers.0.self_attn.q_proj", as the adapter's file names it): the
  // value of the first key of rank_pattern that matches the module, else `r`. INVALID_ARGUMENT: a
  // match takes too long.
  absl::StatusOr<int32_t> RankOf(const std::string& module) const;
  // The factor of the module's B A: alpha / rank, or alpha / sqrt(rank) for rank-stabilised
  // adapters. INVALID_ARGUMENT: a match takes too long.
  absl::StatusOr<float> ScaleOf(const std::string& module, int32_t rank) const;
  // Whether the file names `linear` in target_modules and adapts it in all layers.
  bool Expects(absl::string_view linear) const;

 private:
  PeftConfig();

  // The value of the first pattern that matches the module, else `otherwise`.
  template <class Value>
  static absl::StatusOr<Value> Find(const std::vector<std::pair<NamePattern, Value>>& patterns,
                                    const std::string& module, Value otherwise);

  int32_t rank_ = 0;
  double alpha_ = 0.0;
  bool rank_stabilised_ = false;
  std::vector<std::pair<NamePattern, int32_t>> ranks_;
  std::vector<std::pair<NamePattern, double>> alphas_;
  std::vector<std::string> everywhere_;
};

}  // namespace tessera
