// Reads arbitrary bytes as config.json and generation_config.json, separated by a NUL. The result
// must be a consistent spec or an error.
#include <string>

#include "kernels/base/log.h"
#include "kernels/model/checkpoint/families.h"
#include "kernels/model/checkpoint/weights.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  const size_t nul = input.find('\0');
  const std::string generation = nul == std::string::npos ? "" : input.substr(nul + 1);
  const auto spec =
      tessera::ParseModelSpec("config.json", input.substr(0, nul), "generation.json", generation);
  if (!spec.ok()) {
    CHECK(!spec.status().message().empty());
    return 0;
  }
  CHECK_EQ(spec->heads % spec->kv_heads, 0);
  CHECK_EQ(static_cast<int>(spec->layers.size()), spec->num_layers);
  for (const tessera::LayerSpec& layer : spec->layers) {
    CHECK_LT(layer.group, static_cast<int>(spec->kv_groups.size()));
    CHECK_LT(layer.layer_in_group, spec->kv_groups[layer.group].num_layers);
    const tessera::RopeSpec& rope = spec->ropes.at(layer.rope);
    CHECK_EQ(static_cast<int>(rope.inv_freq.size()) * 2, spec->head_dim);
  }
  for (const tessera::TokenId id : spec->eos_ids) CHECK(id >= 0 && id < spec->vocab_size);
  for (const tessera::DType dtype : {tessera::DType::kF32, tessera::DType::kI4}) {
    const auto plan = tessera::PlanFloatWeights(*spec, dtype);
    CHECK_GT(tessera::PlannedWeightBytes(*spec, plan), 0);
    for (const tessera::PackedFormat& packed : plan.layers.back()) CHECK(packed.format.valid());
  }
  const tessera::QuantizationSpec& quantization = spec->quantization;
  CHECK_EQ(quantization.method == tessera::QuantMethod::kNone, quantization.grids.empty());
  for (const tessera::QuantGrid& grid : quantization.grids) {
    CHECK(grid.bits == 4 || grid.bits == 8);
    CHECK_EQ(grid.group_size % tessera::kGroupGranule, 0);
  }
  for (const auto& [module, grid] : quantization.grid_of) {
    CHECK_GE(grid, -1) << " of " << module;
    CHECK_LT(grid, static_cast<int>(quantization.grids.size())) << " of " << module;
  }
  return 0;
}
