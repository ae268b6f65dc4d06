// The grids of cases that op_fixtures.h declares.
#include "tests/lib/op_fixtures.h"

namespace tessera::testing {

std::vector<AttentionCase> AttentionGrid() {
  std::vector<AttentionCase> grid;
  const auto add = [&grid](const std::string& name, AttentionCase attention) {
    attention.name = name;
    for (DType dtype : {DType::kF32, DType::kBF16, DType::kI8}) {
      attention.kv_dtype = dtype;
      grid.push_back(attention);
      grid.back().name += std::string("_") + DTypeName(dtype);
    }
  };
  const std::vector<SegmentCase> mixed = {{0, 5}, {300, 1}, {37, 20}, {255, 3}, {700, 1}, {0, 1}};

  for (int head_dim : {16, 32, 64, 80, 96, 128, 256}) {
    AttentionCase attention;
    attention.head_dim = head_dim;
    attention.segments = mixed;
    add("dim" + std::to_string(head_dim), attention);
  }
  struct Heads {
    int heads, kv_heads;
  };
  for (const Heads ratio : {Heads{3, 3}, Heads{14, 2}, Heads{7, 1}, Heads{8, 1}}) {
    AttentionCase attention;
    attention.heads = ratio.heads;
    attention.kv_heads = ratio.kv_heads;
    attention.head_dim = 64;
    attention.segments = mixed;
    add("heads" + std::to_string(ratio.heads) + "over" + std::to_string(ratio.kv_heads), attention);
  }
  for (int page_tokens : {8, 32, 64}) {
    AttentionCase attention;
    attention.page_tokens = page_tokens;
    attention.segments = mixed;
    add("page" + std::to_string(page_tokens), attention);
  }
  AttentionCase base;
  base.head_dim = 64;
  base.segments = mixed;
  {
    AttentionCase attention = base;
    attention.windows = {0, 24, 300};
    attention.layers_per_group = 2;
    add("windows", attention);
  }
  {
    AttentionCase attention = base;
    attention.softcap = 5.0f;
    attention.qk_norm = true;
    add("softcap_qknorm", attention);
  }
  {
    AttentionCase attention = base;
    attention.rotary_dim = 32;
    add("partial_rotary", attention);
    attention.rotary_dim = 0;
    add("no_rotary", attention);
  }
  {
    AttentionCase attention = base;
    attention.attention_factor = 1.25f;
    attention.segments.push_back({20, 6, 2, {{100, 50, 50, 0.8f, 0.9f}}});
    add("attention_factor", attention);
  }
  {
    AttentionCase attention = base;
    attention.segments = {{600, 40, 7}, {100, 1, 3}, {0, 70, 2}};
    add("many_runs", attention);
  }
  {
    AttentionCase attention = base;
    attention.segments = {
        {20, 6, 2, {{100, 50, 50, 0.8f, 0.9f}, {280, 200, -30, 0.8f, 0.9f}}},
        {0, 1, 1, {{33, 0, -7, 1.0f, 1.0f}}},
        {5, 9},
    };
    add("streams", attention);
  }
  {
    AttentionCase attention = base;
    attention.segments = {{0, 130}};
    add("prefill", attention);
    attention.segments = {{513, 1}};
    add("decode", attention);
  }
  return grid;
}

std::vector<LinearCase> LinearGrid() {
  std::vector<LinearCase> grid;
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (int64_t rows : {1, 2, 3, 7, 16, 33, 70}) {
      grid.push_back({rows, 96, 64, dtype});
      grid.push_back({rows, 50, 80, dtype, true, true});
      grid.push_back({rows, 128, 256, dtype, false, true, false, Epilogue::kResidualAdd});
      grid.push_back({rows, 64, 172, dtype, false, false, true, Epilogue::kResidualAdd});
      grid.push_back({rows, 80, 96, dtype, true, false, true});
      grid.push_back({rows, 344, 64, dtype, true, true, false, Epilogue::kGatedAct});
      grid.push_back(
          {rows, 36, 48, dtype, true, false, false, Epilogue::kGatedAct, Activation::kGeluTanh});
    }
    grid.push_back({5, 1, 1, dtype});
    grid.push_back({2, 17, 33, dtype, true, true});
    grid.push_back({4, 1031, 1000, dtype, true});
  }
  return grid;
}

std::vector<WeightFormat> QuantizedFormats() {
  std::vector<WeightFormat> formats;
  for (const bool asymmetric : {false, true}) {
    for (const int32_t group_size : {0, 32, 128}) {
      formats.push_back({DType::kI8, group_size, asymmetric});
      formats.push_back({DType::kI4, group_size, asymmetric});
      formats.push_back({DType::kI5, group_size, asymmetric});
    }
    formats.push_back({DType::kI4, 64, asymmetric});
  }
  return formats;
}

}  // namespace tessera::testing
