// The inner loops of Linear and Logits on AMX tiles: up to 32 token rows times 2 panels of 16
// outputs, accumulated in four C tiles. 16 lines (of 64 bytes) of a packed panel are a B tile
// without any conversion, except that int4 codes are unpacked to bytes. A row's result does not
// depend on the tile, because products of one row are never added to the sums of another row.
#include "kernels/cpu/amx_tiles.h"
#include "kernels/cpu/gemm_loop.h"
#include "kernels/cpu/isa_functions.h"

namespace tessera::cpu::TESSERA_ISA {
namespace {

constexpr int kMaxTileRows = 2 * kTileRows;
constexpr int64_t kTileBytes = kTileRows * kCacheLine;

int LeastOf(int64_t a, int64_t b) { return static_cast<int>(a < b ? a : b); }

// Loads bf16 pairs of up to 16 token rows into an A tile.
class BF16Rows {
 public:
  // Whether the prepared rows for bf16 weights are bf16. Otherwise the base ISA has no bf16 dot
  // product, and the rows are fp32 values that bf16 represents exactly.
  static constexpr bool kNarrow =
#if defined(TESSERA_ISA_AMX)
      true;
#else
      false;
#endif

  // Loads `pairs` pairs from pair k of each row, and zeros after them. REQUIRES: pairs <= 16.
  template <int kTile>
  void Load(TileUnit* unit, const char* a, int64_t a_stride, int rows, int64_t k, int pairs) {
    if (kNarrow && pairs == kTileRows) return unit->Load<kTile>(a + 4 * k, a_stride);
    std::memset(copy_, 0, sizeof(copy_));
    for (int r = 0; r < rows; ++r) {
      const char* const row = a + r * a_stride;
      if (kNarrow) {
        std::memcpy(copy_ + r * kCacheLine, row + 4 * k, 4 * static_cast<size_t>(pairs));
        continue;
      }
      for (int i = 0; i < 2 * pairs; ++i) {
        // The upper half of an fp32 value is its bf16 value.
        std::memcpy(copy_ + r * kCacheLine + 2 * i, row + 4 * (2 * k + i) + 2, 2);
      }
    }
    unit->Load<kTile>(copy_, kCacheLine);
  }

 private:
  alignas(64) char copy_[kTileBytes];
};

// Prefetches what the tile's prefetch plan (TileProblem::prefetch) assigns to lines [line, line +
// count) of panel p.
void PrefetchAt(const TileProblem& tile, int p, int64_t line, int count) {
  const char* const next = tile.prefetch + p * tile.panel_bytes + line * tile.prefetch_stride;
  for (int i = 0; i < count; ++i) __builtin_prefetch(next + i * tile.prefetch_stride);
}

// Loads lines [line, line + count) of panel p into a B tile, and zeros after them.
template <int kTile>
void LoadLines(TileUnit* unit, const TileProblem& tile, int p, int64_t line, int count) {
  const char* const lines = tile.b + p * tile.panel_bytes + line * kCacheLine;
  PrefetchAt(tile, p, line, count);
  if (count == kTileRows) return unit->Load<kTile>(lines, kCacheLine);
  alignas(64) char copy[kTileBytes] = {};
  std::memcpy(copy, lines, static_cast<size_t>(count * kCacheLine));
  unit->Load<kTile>(copy, kCacheLine);
}

struct BF16Tiles {
  static constexpr int kMaxRows = kMaxTileRows;
  static constexpr int Panels(int rows, bool alone) { return 2; }

  template <bool kTwoRows, bool kTwoPanels>
  static void Run(const TileProblem& tile, int rows) {
    const int rows0 = LeastOf(rows, kTileRows);
    TileUnit unit;
    unit.Configure(MakeTileConfig(rows0, rows - rows0, 64));
    unit.Zero<0>();
    if (kTwoPanels) unit.Zero<1>();
    if (kTwoRows) unit.Zero<2>();
    if (kTwoRows && kTwoPanels) unit.Zero<3>();
    BF16Rows a0;
    BF16Rows a1;
    for (int64_t k = 0; k < tile.steps; k += kTileRows) {
      const int pairs = LeastOf(tile.steps - k, kTileRows);
      a0.Load<4>(&unit, tile.a, tile.a_stride, rows0, k, pairs);
      if (kTwoRows) {
        a1.Load<5>(&unit, tile.a + kTileRows * tile.a_stride, tile.a_stride, rows - rows0, k,
                   pairs);
      }
      LoadLines<6>(&unit, tile, 0, k, pairs);
      if (kTwoPanels) LoadLines<7>(&unit, tile, 1, k, pairs);
      unit.DotBF16<0, 4, 6>();
      if (kTwoPanels) unit.DotBF16<1, 4, 7>();
      if (kTwoRows) unit.DotBF16<2, 5, 6>();
      if (kTwoRows && kTwoPanels) unit.DotBF16<3, 5, 7>();
    }
    const int64_t stride = tile.out_stride * 4;
    float* const out1 = tile.out + kTileRows * tile.out_stride;
    unit.Store<0>(tile.out, stride);
    if (kTwoPanels) unit.Store<1>(tile.out + kPanel, stride);
    if (kTwoRows) unit.Store<2>(out1, stride);
    if (kTwoRows && kTwoPanels) unit.Store<3>(out1 + kPanel, stride);
  }

  static void Compute(const GemmProblem& problem, const TileProblem& tile, int rows, int panels) {
    const auto run = panels > 1 ? (rows > kTileRows ? &Run<true, true> : &Run<false, true>)
                                : (rows > kTileRows ? &Run<true, false> : &Run<false, false>);
    run(tile, rows);
  }
};

// Int8Lines and Int4Lines load weights [k, k + count) of 16 outputs into a B tile of k_bytes / 4
// lines with 4 k each, and zeros after them. k_bytes is 64, or 32 if a group is not a multiple of
// 64.
struct Int8Lines {
  template <int kTile>
  static void Load(TileUnit* unit, const TileProblem& tile, int p, int64_t k, int count,
                   int k_bytes) {
    const char* const lines = tile.b + p * tile.panel_bytes + k / 4 * kCacheLine;
    const int num_lines = (count + 3) / 4;
    PrefetchAt(tile, p, k / 4, num_lines);
    if (4 * num_lines == k_bytes) return unit->Load<kTile>(lines, kCacheLine);
    alignas(64) char copy[kTileBytes] = {};
    std::memcpy(copy, lines, static_cast<size_t>(num_lines * kCacheLine));
    unit->Load<kTile>(copy, kCacheLine);
  }
};
struct Int4Lines {
  template <int kTile>
  static void Load(TileUnit* unit, const TileProblem& tile, int p, int64_t k, int count,
                   int k_bytes) {
    const char* const lines = tile.b + p * tile.panel_bytes + k / 8 * kCacheLine;
    const int num_lines = (count + 7) / 8;
    PrefetchAt(tile, p, k / 8, num_lines);
    alignas(64) char bytes[kTileBytes];
    if (8 * num_lines != k_bytes) std::memset(bytes, 0, sizeof(bytes));
    for (int i = 0; i < num_lines; ++i) {
      const I16 codes = LoadInts(lines + i * kCacheLine);
      const I16 low = LowNibbles(codes);
      const I16 high = HighNibbles(codes);
      std::memcpy(bytes + 2 * i * kCacheLine, &low, sizeof(low));
      std::memcpy(bytes + (2 * i + 1) * kCacheLine, &high, sizeof(high));
    }
    unit->Load<kTile>(bytes, kCacheLine);
  }
};

// Adds one group of columns to the outputs of `rows` rows and one panel: out = fma(scale, dot -
// zero * sum, out), where `sum` is the sum of the row's codes. The first group overwrites `out`.
void AddGroup(const QuantShape& shape, const TileProblem& tile, int64_t g, int row, int rows,
              int panel, const int32_t* dots) {
  const char* const b = tile.b + panel * tile.panel_bytes;
  const char* const scales = b + shape.scales;
  V16 scale;
  if (shape.scale_type == ScaleType::kF32) {
    scale = Load(scales + 4 * kPanel * g);
  } else {
    const char* const half = scales + 2 * kPanel * g;
    scale = shape.scale_type == ScaleType::kBF16 ? LoadBF16(half) : LoadF16(half);
  }
  const I16 zero = shape.zeros != 0 ? LoadWideBytes(b + shape.zeros + kPanel * g)
                                    : BroadcastInt(shape.symmetric_zero);
  for (int r = 0; r < rows; ++r) {
    const I16 sum = BroadcastBytes(tile.a + (row + r) * tile.a_stride + shape.row_sums + 4 * g);
    const I16 dot = SubInts(LoadInts(dots + r * kPanel), MulInts(zero, sum));
    float* const out = tile.out + (row + r) * tile.out_stride + panel * kPanel;
    Store(out, Fma(scale, ToFloats(dot), g == 0 ? Zero() : Load(out)));
  }
}

template <class Lines>
struct QuantTiles {
  static constexpr int kMaxRows = kMaxTileRows;
  static constexpr int Panels(int rows, bool alone) { return 2; }

  template <bool kTwoRows, bool kTwoPanels>
  static void Run(const QuantShape& shape, const TileProblem& tile, int rows) {
    const int rows0 = LeastOf(rows, kTileRows);
    const int rows1 = rows - rows0;
    const int k_bytes = shape.num_groups > 1 && shape.group_size % 64 != 0 ? 32 : 64;
    TileUnit unit;
    unit.Configure(MakeTileConfig(rows0, rows1, k_bytes));
    alignas(64) int32_t dots[kTileRows * kPanel];
    for (int64_t g = 0; g < shape.num_groups; ++g) {
      unit.Zero<0>();
      if (kTwoPanels) unit.Zero<1>();
      if (kTwoRows) unit.Zero<2>();
      if (kTwoRows && kTwoPanels) unit.Zero<3>();
      const int64_t end = g + 1 < shape.num_groups ? (g + 1) * shape.group_size : shape.cols;
      for (int64_t k = g * shape.group_size; k < end; k += k_bytes) {
        const int count = LeastOf(end - k, k_bytes);
        unit.Load<4>(tile.a + k, tile.a_stride);
        if (kTwoRows) unit.Load<5>(tile.a + kTileRows * tile.a_stride + k, tile.a_stride);
        Lines::template Load<6>(&unit, tile, 0, k, count, k_bytes);
        unit.DotBytes<0, 4, 6>();
        if (kTwoRows) unit.DotBytes<2, 5, 6>();
        if (!kTwoPanels) continue;
        Lines::template Load<7>(&unit, tile, 1, k, count, k_bytes);
        unit.DotBytes<1, 4, 7>();
        if (kTwoRows) unit.DotBytes<3, 5, 7>();
      }
      unit.Store<0>(dots, kCacheLine);
      AddGroup(shape, tile, g, 0, rows0, 0, dots);
      if (kTwoPanels) {
        unit.Store<1>(dots, kCacheLine);
        AddGroup(shape, tile, g, 0, rows0, 1, dots);
      }
      if (kTwoRows) {
        unit.Store<2>(dots, kCacheLine);
        AddGroup(shape, tile, g, kTileRows, rows1, 0, dots);
      }
      if (kTwoRows && kTwoPanels) {
        unit.Store<3>(dots, kCacheLine);
        AddGroup(shape, tile, g, kTileRows, rows1, 1, dots);
      }
    }
    for (int r = 0; r < rows; ++r) {
      const V16 row_scale = BroadcastWord(tile.a + r * tile.a_stride + shape.row_scale);
      for (int p = 0; p < (kTwoPanels ? 2 : 1); ++p) {
        float* const out = tile.out + r * tile.out_stride + p * kPanel;
        Store(out, Mul(Load(out), row_scale));
      }
    }
  }

  static void Compute(const GemmProblem& problem, const TileProblem& tile, int rows, int panels) {
    const auto run = panels > 1 ? (rows > kTileRows ? &Run<true, true> : &Run<false, true>)
                                : (rows > kTileRows ? &Run<true, false> : &Run<false, false>);
    run(*problem.quant, tile, rows);
  }
};

}  // namespace

void GemmBF16(const GemmProblem& problem, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
              int64_t row_end) {
  GemmLoop<BF16Tiles>(problem, panel_begin, panel_end, row_begin, row_end);
}

void GemmI8(const GemmProblem& problem, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
            int64_t row_end) {
  GemmLoop<QuantTiles<Int8Lines>>(problem, panel_begin, panel_end, row_begin, row_end);
}

void GemmI4(const GemmProblem& problem, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
            int64_t row_end) {
  GemmLoop<QuantTiles<Int4Lines>>(problem, panel_begin, panel_end, row_begin, row_end);
}

// Runs four independent tile products per iteration, as the GEMM loops do.
double SpinMultiplyAdds(int64_t iterations) {
  TileUnit unit;
  unit.Configure(MakeTileConfig(kTileRows, kTileRows, 64));
  for (int64_t i = 0; i < iterations; ++i) {
    unit.DotBF16<0, 4, 6>();
    unit.DotBF16<1, 4, 7>();
    unit.DotBF16<2, 5, 6>();
    unit.DotBF16<3, 5, 7>();
  }
  return 4.0 * 2 * kTileRows * kPanel * 32 * static_cast<double>(iterations);
}

double SpinDots(int64_t iterations) {
  TileUnit unit;
  unit.Configure(MakeTileConfig(kTileRows, kTileRows, 64));
  for (int64_t i = 0; i < iterations; ++i) {
    unit.DotBytes<0, 4, 6>();
    unit.DotBytes<1, 4, 7>();
    unit.DotBytes<2, 5, 6>();
    unit.DotBytes<3, 5, 7>();
  }
  return 4.0 * 2 * kTileRows * kPanel * 64 * static_cast<double>(iterations);
}

const IsaKernels& Kernels() {
  static const IsaKernels kernels = [] {
    IsaKernels table = TESSERA_BASE_ISA::Kernels();
    table.name = TESSERA_ISA_NAME;
    table.gemm_bf16 = &GemmBF16;
    table.gemm_i8 = &GemmI8;
    table.gemm_i4 = &GemmI4;
    table.spin_multiply_adds = &SpinMultiplyAdds;
    table.spin_dots = &SpinDots;
    return table;
  }();
  return kernels;
}

}  // namespace tessera::cpu::TESSERA_ISA
