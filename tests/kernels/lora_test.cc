// Tests of LoRA in Linear: ref is compared with B A multiplied out in fp64, and cpu with ref. A
// row's result must have the same bits whatever adapters the other rows use, and a row without an
// adapter the same bits as in a step without adapters.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "kernels/base/thread_team.h"
#include "kernels/device/backend.h"
#include "kernels/step/adapter_layout.h"
#include "tests/lib/op_fixtures.h"
#include "tests/lib/sanitizers.h"

namespace tessera::testing {
namespace {

struct LinearKind {
  std::string name;
  std::vector<LoraTarget> targets;
  int part_rows[3];
  int cols;
  Epilogue epilogue = Epilogue::kStore;
  bool pre_norm = false;
  bool bias = false;
  bool post_norm = false;
};

const std::vector<LinearKind>& Kinds() {
  static const std::vector<LinearKind> kinds = {
      {"qkv",
       {LoraTarget::kQuery, LoraTarget::kKey, LoraTarget::kValue},
       {96, 32, 32},
       80,
       Epilogue::kStore,
       true,
       true},
      {"out", {LoraTarget::kOut}, {80, 0, 0}, 96, Epilogue::kResidualAdd},
      {"gate_up",
       {LoraTarget::kGate, LoraTarget::kUp},
       {176, 176, 0},
       80,
       Epilogue::kGatedAct,
       true},
      {"down", {LoraTarget::kDown}, {80, 0, 0}, 176, Epilogue::kResidualAdd, false, true, true},
      {"ragged", {LoraTarget::kOut}, {75, 0, 0}, 91, Epilogue::kStore, true},
  };
  return kinds;
}

constexpr int kLayers = 2;
constexpr int64_t kPageBytes = 4096;  // small enough that most matrices span several pages

struct SegmentRows {
  int num_tokens;
  int adapter;
};

// A Linear with adapters whose pages are in no particular order.
class World {
 public:
  // [adapter][target] rank; 0: the adapter does not have the target.
  World(const LinearKind& kind, const std::vector<int>& ranks, DType dtype) : kind_(kind) {
    for (size_t p = 0; p < kind.targets.size(); ++p) {
      const int target = static_cast<int>(kind.targets[p]);
      shape_.rows[target] = kind.part_rows[p];
      shape_.cols[target] = kind.cols;
      rows_ += kind.part_rows[p];
    }
    weight_ = RandomFloats(static_cast<size_t>(rows_ * kind.cols), 0.3f, 1);
    bias_ = RandomFloats(static_cast<size_t>(rows_), 0.5f, 2);
    norm_ = RandomFloats(static_cast<size_t>(std::max(rows_, kind.cols)), 1.0f, 3);
    int32_t num_pages = 1;  // page 0 is the null page
    for (const int rank : ranks) num_pages += AddAdapter(rank, dtype);
    pool_.resize(static_cast<size_t>(num_pages) * kPageBytes / sizeof(uint64_t));
    // Page ids descend: the first page of the first adapter is the last page of the pool.
    int32_t next = num_pages;
    for (Adapter& adapter : adapters_) {
      for (int32_t i = 0; i < adapter.layout.num_pages; ++i) {
        adapter.pages.push_back(--next);
        std::copy_n(adapter.image.data() + i * kPageBytes, kPageBytes,
                    reinterpret_cast<char*>(pool_.data()) + next * kPageBytes);
      }
    }
  }

  int out_cols() const { return kind_.epilogue == Epilogue::kGatedAct ? rows_ / 2 : rows_; }

  std::vector<float> Run(Backend* backend, const std::vector<SegmentRows>& segments,
                         const std::vector<float>& x, int layer, DType weight_dtype) {
    const int64_t num_rows = static_cast<int64_t>(x.size()) / kind_.cols;
    BatchArena arena;
    StepBatch batch;
    std::vector<Segment> all;
    int32_t row = 0;
    for (const SegmentRows& s : segments) {
      all.push_back({static_cast<int32_t>(all.size()), row, s.num_tokens, s.adapter});
      row += s.num_tokens;
    }
    EXPECT_EQ(row, num_rows);
    std::vector<PageId> pages;
    std::vector<BatchAdapter> adapters;
    std::vector<LoraMatrices> matrices;
    for (const Adapter& adapter : adapters_) {
      adapters.push_back({static_cast<int32_t>(pages.size()), static_cast<int32_t>(matrices.size()),
                          adapter.layout.dtype});
      pages.insert(pages.end(), adapter.pages.begin(), adapter.pages.end());
      matrices.insert(matrices.end(), adapter.layout.matrices.begin(),
                      adapter.layout.matrices.end());
    }
    batch.tokens = arena.Add<TokenId>(static_cast<size_t>(num_rows));
    batch.positions = arena.Add<int32_t>(static_cast<size_t>(num_rows));
    batch.write_places = arena.Add<int64_t>(static_cast<size_t>(num_rows));
    batch.run_ranges = arena.Add<Range>(all.size());
    batch.segments = arena.AddCopy(all);
    batch.pages = arena.AddCopy(pages);
    if (std::any_of(all.begin(), all.end(), [](const Segment& s) { return s.adapter >= 0; })) {
      batch.adapters = arena.AddCopy(adapters);
      batch.lora_matrices = arena.AddCopy(matrices);
    }
    std::vector<WeightView> parts;
    const bool gated = kind_.epilogue == Epilogue::kGatedAct;
    int first = 0;
    for (size_t p = 0; p < kind_.targets.size(); ++p) {
      parts.push_back(
          {weight_.data() + first * kind_.cols, DType::kF32, kind_.part_rows[p], kind_.cols});
      first += kind_.part_rows[p];
    }
    const auto packed = backend->Pack(parts, weight_dtype, gated);
    const BatchView view = {&batch, arena.base()};
    StepShape shape;
    shape.hidden = shape.widest_input = kind_.cols;
    BeginStep(backend, view, shape);
    LinearArgs args;
    args.x = Tensor::F32(const_cast<float*>(x.data()), num_rows, kind_.cols);
    args.weight = packed.get();
    if (kind_.pre_norm) args.pre_norm = {norm_.data(), 1e-5f};
    if (kind_.post_norm) args.post_norm = {norm_.data(), 1e-5f};
    if (kind_.bias) args.bias = bias_.data();
    args.epilogue = kind_.epilogue;
    std::vector<float> out = RandomFloats(static_cast<size_t>(num_rows * out_cols()), 1.0f, 9);
    for (int64_t r = 1; r < num_rows; ++r) {
      std::copy_n(out.begin(), out_cols(), out.begin() + r * out_cols());
    }
    args.out = Tensor::F32(out.data(), num_rows, out_cols());
    if (batch.adapters.count > 0) {
      args.lora.batch = view;
      args.lora.pool = {reinterpret_cast<char*>(pool_.data()), kPageBytes,
                        static_cast<int64_t>(pool_.size() * sizeof(uint64_t)) / kPageBytes};
      args.lora.page_bytes = kPageBytes;
      args.lora.layer = layer;
      args.lora.num_parts = static_cast<int32_t>(kind_.targets.size());
      std::copy(kind_.targets.begin(), kind_.targets.end(), args.lora.targets);
      std::copy_n(kind_.part_rows, 3, args.lora.part_rows);
    }
    backend->Linear(args);
    return out;
  }

  // Returns the fused weight plus an adapter's scale * B A, added in fp64 and rounded to fp32.
  void Merge(int adapter, int layer) {
    int first = 0;
    for (size_t p = 0; p < kind_.targets.size(); ++p) {
      const LoraTensors& tensors =
          adapters_[static_cast<size_t>(adapter)]
              .tensors[static_cast<size_t>(layer) * kind_.targets.size() + p];
      for (int n = 0; n < kind_.part_rows[p]; ++n) {
        for (int k = 0; k < kind_.cols; ++k) {
          double sum = 0.0;
          for (int i = 0; i < tensors.rank; ++i) {
            sum += static_cast<double>(tensors.scales[static_cast<size_t>(i)]) *
                   tensors.b[static_cast<size_t>(n * tensors.rank + i)] *
                   tensors.a[static_cast<size_t>(i * kind_.cols + k)];
          }
          weight_[static_cast<size_t>((first + n) * kind_.cols + k)] += static_cast<float>(sum);
        }
      }
      first += kind_.part_rows[p];
    }
  }

 private:
  struct Adapter {
    AdapterLayout layout;
    std::vector<char> image;
    std::vector<PageId> pages;
    std::vector<LoraTensors> tensors;  // [layers, targets of the linear]
  };

  int32_t AddAdapter(int rank, DType dtype) {
    Adapter adapter;
    std::vector<int32_t> ranks(kLayers * kNumLoraTargets, 0);
    for (int layer = 0; layer < kLayers; ++layer) {
      for (const LoraTarget target : kind_.targets) {
        ranks[static_cast<size_t>(layer * kNumLoraTargets + static_cast<int>(target))] = rank;
      }
    }
    adapter.layout = PlanAdapter(shape_, ranks, dtype, kPageBytes);
    adapter.image.resize(static_cast<size_t>(adapter.layout.num_pages * kPageBytes));
    for (int layer = 0; layer < kLayers; ++layer) {
      for (const LoraTarget target : kind_.targets) {
        const int64_t rows = shape_.rows[static_cast<int>(target)];
        LoraTensors tensors;
        tensors.rank = rank;
        tensors.a = RandomFloats(static_cast<size_t>(rank * kind_.cols), 0.2f, ++seed_);
        tensors.b = RandomFloats(static_cast<size_t>(rank * rows), 0.2f, ++seed_);
        tensors.scales.assign(static_cast<size_t>(rank), 1.5f);
        if (dtype == DType::kBF16) {
          for (float& value : tensors.a) value = BF16ToFloat(FloatToBF16(value));
          for (float& value : tensors.b) value = BF16ToFloat(FloatToBF16(value));
        }
        if (rank > 0) {
          PlaceMatrices(adapter.layout, shape_, layer, target, tensors, adapter.image.data());
        }
        adapter.tensors.push_back(std::move(tensors));
      }
    }
    adapters_.push_back(std::move(adapter));
    return adapters_.back().layout.num_pages;
  }

  const LinearKind kind_;
  LoraShape shape_;
  int rows_ = 0;
  std::vector<float> weight_;
  std::vector<float> bias_;
  std::vector<float> norm_;
  std::vector<uint64_t> pool_;
  std::vector<Adapter> adapters_;
  uint64_t seed_ = 100;
};

// The batch has decode rows, prefill chunks, segments that share an adapter, side by side or with
// rows of no adapter between them, and segments without an adapter.
const std::vector<SegmentRows> kMixed = {{1, 0}, {1, 0}, {1, -1}, {2, 0},  {7, 1},
                                         {1, 2}, {1, 3}, {2, -1}, {30, 4}, {5, 0}};
const std::vector<int> kRanks = {8, 13, 1, 0, 64};

std::vector<float> InputOf(const LinearKind& kind, int rows) {
  return RandomFloats(static_cast<size_t>(rows * kind.cols), 1.0f, 5);
}

TEST(AdapterLayoutTest, TilesLieInOnePageEach) {
  LoraShape shape;
  for (int t = 0; t < kNumLoraTargets; ++t) {
    shape.rows[t] = 100 + 16 * t;
    shape.cols[t] = 70 + 30 * t;
  }
  std::vector<int32_t> ranks;
  for (int i = 0; i < 3 * kNumLoraTargets; ++i) ranks.push_back(i % 5 * 3);
  const AdapterLayout layout = PlanAdapter(shape, ranks, DType::kBF16, 2048);
  std::vector<char> used(static_cast<size_t>(layout.num_pages) * 2048, 0);
  int64_t bytes = 0;
  for (const LoraMatrices& matrices : layout.matrices) {
    for (const TileRun& run : {matrices.a, matrices.b}) {
      for (int32_t tile = 0; tile < run.num_tiles; ++tile) {
        const TilePlace place = PlaceOfTile(run, 2048, tile);
        ASSERT_LT(place.page, layout.num_pages);
        ASSERT_LE(place.offset + run.tile_bytes, 2048);
        bytes += run.tile_bytes;
        for (int32_t i = 0; i < run.tile_bytes; ++i) {
          char& byte = used[static_cast<size_t>(place.page * 2048 + place.offset + i)];
          ASSERT_EQ(byte, 0);
          byte = 1;
        }
      }
    }
  }
  EXPECT_EQ(bytes, layout.num_bytes);
  // The free bytes are less than one page plus the largest tile per page, so no page is wasted.
  EXPECT_GT(layout.num_bytes, (layout.num_pages - 1) * 1024);
}

TEST(AdapterLayoutTest, ATileLargerThanAPageDoesNotFit) {
  LoraShape shape;
  shape.rows[0] = 16;
  shape.cols[0] = 4096;
  std::vector<int32_t> ranks(kNumLoraTargets, 0);
  ranks[0] = 4;
  EXPECT_EQ(PlanAdapter(shape, ranks, DType::kF32, 4096).num_pages, 0);
  EXPECT_GT(PlanAdapter(shape, ranks, DType::kF32, 32768).num_pages, 0);
}

// A number that is not finite makes the scale of its own rank not finite, and no other scale. The
// codes remain valid.
TEST(AdapterLayoutTest, NotFiniteInt8RanksAreNotFinite) {
  LoraShape shape;
  shape.rows[0] = 16;
  shape.cols[0] = 16;
  std::vector<int32_t> ranks(kNumLoraTargets, 0);
  ranks[0] = 4;
  const AdapterLayout layout = PlanAdapter(shape, ranks, DType::kI8, 4096);
  LoraTensors tensors;
  tensors.rank = 4;
  tensors.a.assign(4 * 16, 0.5f);
  tensors.b.assign(16 * 4, 0.25f);
  tensors.scales.assign(4, 1.0f);
  tensors.a[3] = std::numeric_limits<float>::quiet_NaN();
  tensors.a[16 + 5] = std::numeric_limits<float>::infinity();
  for (int i = 32; i < 48; ++i) tensors.a[i] = 0.0f;
  std::vector<char> pages(static_cast<size_t>(layout.num_pages) * 4096, 1);
  PlaceMatrices(layout, shape, 0, LoraTarget::kQuery, tensors, pages.data());
  for (int i = 0; i < 4; ++i) {
    const TilePlace place = PlaceOfTile(layout.matrices[0].a, 4096, i);
    const char* const tile = pages.data() + place.page * 4096 + place.offset;
    float scale;
    std::memcpy(&scale, tile + AdapterLayout::ScaleOffset(16, DType::kI8), sizeof(scale));
    EXPECT_EQ(std::isfinite(scale), i >= 2) << i;
    EXPECT_EQ(tile[7], i == 3 ? 127 : 0) << i;
  }
}

TEST(RefLoraTest, EqualsTheMergedWeight) {
  const auto ref = NewRefBackend();
  for (const LinearKind& kind : Kinds()) {
    for (int adapter = 0; adapter < static_cast<int>(kRanks.size()); ++adapter) {
      World world(kind, kRanks, DType::kF32);
      const std::vector<float> x = InputOf(kind, 3);
      const auto got = world.Run(ref.get(), {{3, adapter}}, x, 1, DType::kF32);
      world.Merge(adapter, 1);
      const auto want = world.Run(ref.get(), {{3, -1}}, x, 1, DType::kF32);
      ExpectClose(got, want, 2e-4, 1e-4, kind.name);
    }
  }
}

// Int8 codes are within half a step of the weights, so the difference of the outputs is small
// noise.
TEST(RefLoraTest, Int8IsNearFp32) {
  const auto ref = NewRefBackend();
  for (const LinearKind& kind : Kinds()) {
    World exact(kind, kRanks, DType::kF32);
    World coded(kind, kRanks, DType::kI8);
    const std::vector<float> x = InputOf(kind, 3);
    const auto want = exact.Run(ref.get(), {{3, 0}}, x, 0, DType::kF32);
    const auto got = coded.Run(ref.get(), {{3, 0}}, x, 0, DType::kF32);
    ExpectClose(got, want, 0.3, 0.05, kind.name);
  }
}

class CpuLoraTest : public ::testing::TestWithParam<std::string> {
 protected:
  static int NumRows() {
    int rows = 0;
    for (const SegmentRows& s : kMixed) rows += s.num_tokens;
    return rows;
  }
};

// Sanitizer builds test only the best ISA and the AMX kernels with emulated tile registers.
std::vector<std::string> Isas() {
  std::vector<std::string> isas = CpuIsas();
  if (kSanitized && isas.size() > 1) isas.resize(1);
  if (!isas.empty()) isas.emplace_back("amxtwin");
  return isas;
}

INSTANTIATE_TEST_SUITE_P(Isa, CpuLoraTest, ::testing::ValuesIn(Isas()),
                         [](const auto& info) { return info.param; });

TEST_P(CpuLoraTest, MatchesRef) {
  ThreadTeam team(2);
  const auto cpu = NewCpuBackend(GetParam(), &team);
  const auto ref = NewRefBackend();
  for (const LinearKind& kind : Kinds()) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kI8}) {
      for (const DType weight : {DType::kF32, DType::kBF16, DType::kI8}) {
        World world(kind, kRanks, dtype);
        const std::vector<float> x = InputOf(kind, NumRows());
        const auto got = world.Run(cpu.get(), kMixed, x, 1, weight);
        const auto want = world.Run(ref.get(), kMixed, x, 1, weight);
        // A difference in the last bit of the norm may change the rounding or quantisation of a
        // row; see cpu_linear_test.cc.
        const double slack = weight == DType::kF32 ? 1e-4 : 0.05;
        ExpectClose(got, want, slack, 1e-4, kind.name);
      }
    }
  }
}

TEST_P(CpuLoraTest, ARowDoesNotDependOnTheBatchBitwise) {
  ThreadTeam one(1);
  ThreadTeam two(2);
  const auto alone = NewCpuBackend(GetParam(), &one);
  const auto together = NewCpuBackend(GetParam(), &two);
  for (const LinearKind& kind : Kinds()) {
    World world(kind, kRanks, DType::kBF16);
    const std::vector<float> x = InputOf(kind, NumRows());
    const auto mixed = world.Run(together.get(), kMixed, x, 0, DType::kBF16);
    int row = 0;
    for (const SegmentRows& s : kMixed) {
      for (int i = 0; i < s.num_tokens; ++i, ++row) {
        const std::vector<float> one_row(x.begin() + row * kind.cols,
                                         x.begin() + (row + 1) * kind.cols);
        const auto got = world.Run(alone.get(), {{1, s.adapter}}, one_row, 0, DType::kBF16);
        const std::vector<float> want(mixed.begin() + row * world.out_cols(),
                                      mixed.begin() + (row + 1) * world.out_cols());
        ASSERT_EQ(got, want) << kind.name << " row " << row;
      }
    }
  }
}

}  // namespace
}  // namespace tessera::testing
