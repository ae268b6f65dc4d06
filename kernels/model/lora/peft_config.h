// adapter_config.json of a PEFT adapter: what it says about a module's rank and scaling. Internal
// to peft.cc.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tessera {

class PeftConfig final {
 public:
  // Refuses what would compute something else than plain LoRA on linears.
  static absl::StatusOr<PeftConfig> Open(const std::string& path);
  PeftConfig(PeftConfig&&) noexcept;
  ~PeftConfig();

  // Of a module ("model.layers.0.self_attn.q_proj"): the pattern's that matches it, else r.
  int32_t RankOf(const std::string& module) const;
  // alpha / rank, or alpha / sqrt(rank).
  float ScaleOf(const std::string& module, int32_t rank) const;
  // Whether target_modules says outright that all layers' linears of that name are adapted.
  bool Expects(absl::string_view linear) const;

 private:
  class Pattern;

  PeftConfig();

  int32_t rank_ = 0;
  double alpha_ = 0.0;
  bool rank_stabilised_ = false;
  std::vector<std::pair<Pattern, int32_t>> ranks_;
  std::vector<std::pair<Pattern, double>> alphas_;
  std::vector<std::string> everywhere_;
};

}  // namespace tessera
