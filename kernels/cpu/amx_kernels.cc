// The inner loops of Linear and Logits on AMX tiles: up to 32 token rows times 2 panels of 16
// outputs, accumulated in four C tiles. 16 lines (of 64 bytes) of a packed panel are a B tile
// without any conversion, except that int5 and int4 codes are unpacked to bytes, and all codes to
// bf16 for bf16 rows. A row's result does not depend on the tile, because products of one row are
// never added to the sums of another row.
#include "kernels/cpu/amx_tiles.h"
#include "kernels/cpu/gemm_loop.h"
#include "kernels/cpu/isa_functions.h"
#include "kernels/cpu/quant_tile.h"
#include "kernels/cpu/weight_columns.h"

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

// A Lines type multiplies tiles of one kind of quantised weights and prepared rows. Its LoadLines
// loads weights [k, k + count) of 16 outputs into a B tile, and zeros after them.

// int8 rows. A tile product takes 64 columns, or 32 if a group is not a multiple of 64.
struct ByteRows {
  static constexpr int kElementBytes = 1;
  static constexpr bool kScaledRows = true;
  static int StepBytes(const QuantShape& shape) {
    return shape.num_groups > 1 && shape.group_size % 64 != 0 ? 32 : 64;
  }
  template <int kTile>
  static void LoadRows(TileUnit* unit, const char* a, int64_t a_stride, int rows, int64_t k,
                       int count) {
    unit->Load<kTile>(a + k, a_stride);
  }
  template <int kC, int kA, int kB>
  static void Multiply(TileUnit* unit) {
    unit->DotBytes<kC, kA, kB>();
  }
  // Returns the products of a row with weights code - zero. `sum` is the sum of the row's elements.
  static V16 Centred(const QuantShape& shape, const void* dots, I16 zero, const char* sum) {
    return ToFloats(SubInts(LoadInts(dots), MulInts(zero, BroadcastBytes(sum))));
  }
};
struct Int8Lines : ByteRows {
  template <int kTile>
  static void LoadLines(TileUnit* unit, const TileProblem& tile, int p, int64_t k, int count,
                        int step_bytes) {
    const char* const lines = tile.b + p * tile.panel_bytes + k / 4 * kCacheLine;
    const int num_lines = (count + 3) / 4;
    PrefetchAt(tile, p, k / 4, num_lines);
    if (4 * num_lines == step_bytes) return unit->Load<kTile>(lines, kCacheLine);
    alignas(64) char copy[kTileBytes] = {};
    std::memcpy(copy, lines, static_cast<size_t>(num_lines * kCacheLine));
    unit->Load<kTile>(copy, kCacheLine);
  }
};
struct Int4Lines : ByteRows {
  template <int kTile>
  static void LoadLines(TileUnit* unit, const TileProblem& tile, int p, int64_t k, int count,
                        int step_bytes) {
    const char* const lines = tile.b + p * tile.panel_bytes + k / 8 * kCacheLine;
    const int num_lines = (count + 7) / 8;
    PrefetchAt(tile, p, k / 8, num_lines);
    alignas(64) char bytes[kTileBytes];
    if (8 * num_lines != step_bytes) std::memset(bytes, 0, sizeof(bytes));
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
struct Int5Lines : ByteRows {
  template <int kTile>
  static void LoadLines(TileUnit* unit, const TileProblem& tile, int p, int64_t k, int count,
                        int step_bytes) {
    constexpr int kCols = Int5Columns::kCols;
    constexpr int kRuns = kCols / 4;
    const int64_t line = k / kCols * Int5Columns::kLines;
    const char* const lines = tile.b + p * tile.panel_bytes + line * kCacheLine;
    const int num_steps = (count + kCols - 1) / kCols;
    PrefetchAt(tile, p, line, num_steps * Int5Columns::kLines);
    alignas(64) char bytes[kTileBytes];
    if (kCols * num_steps != step_bytes) std::memset(bytes, 0, sizeof(bytes));
    for (int run = 0; run < num_steps * kRuns; ++run) {
      const I16 codes =
          FiveBitCodes(lines + run / kRuns * Int5Columns::kLines * kCacheLine, run % kRuns);
      std::memcpy(bytes + run * kCacheLine, &codes, sizeof(codes));
    }
    unit->Load<kTile>(bytes, kCacheLine);
  }
};

// bf16 rows (RoundRow in weight_only_kernels.cc). A tile product takes 32 columns: 16 pairs of
// columns that lie two apart.
template <class Columns>
struct RoundedLines {
  static constexpr int kElementBytes = 2;
  static constexpr bool kScaledRows = false;
  static constexpr int kPairs = Columns::kCols / 2;  // of a step of Columns
  static int StepBytes(const QuantShape& shape) { return kTileRows * 4; }

  template <int kTile>
  static void LoadRows(TileUnit* unit, const char* a, int64_t a_stride, int rows, int64_t k,
                       int count) {
    if (BF16Rows::kNarrow) return unit->Load<kTile>(a + kElementBytes * k, a_stride);
    alignas(64) char copy[kTileBytes] = {};
    const int whole = (count + 3) / 4 * 4;
    for (int r = 0; r < rows; ++r) {
      for (int i = 0; i < whole; ++i) {
        // Columns 0, 2, 1, 3 of each run of four; the upper half of an fp32 value is its bf16
        // value.
        const int column = i / 4 * 4 + i % 2 * 2 + i / 2 % 2;
        std::memcpy(copy + r * kCacheLine + 2 * i, a + r * a_stride + 4 * (k + column) + 2, 2);
      }
    }
    unit->Load<kTile>(copy, kCacheLine);
  }

  template <int kTile>
  static void LoadLines(TileUnit* unit, const TileProblem& tile, int p, int64_t k, int count,
                        int step_bytes) {
    const int64_t line = k / Columns::kCols * Columns::kLines;
    const char* const lines = tile.b + p * tile.panel_bytes + line * kCacheLine;
    const int num_steps = (count + Columns::kCols - 1) / Columns::kCols;
    PrefetchAt(tile, p, line, num_steps * Columns::kLines);
    alignas(64) char pairs[kTileBytes];
    if (num_steps * kPairs != kTileRows) std::memset(pairs, 0, sizeof(pairs));
    for (int i = 0; i < num_steps; ++i) {
      for (int pair = 0; pair < kPairs; ++pair) {
        const V16 w = PairOf(lines + i * Columns::kLines * kCacheLine, pair);
        std::memcpy(pairs + (i * kPairs + pair) * kCacheLine, &w, sizeof(w));
      }
    }
    unit->Load<kTile>(pairs, kCacheLine);
  }
  template <int kC, int kA, int kB>
  static void Multiply(TileUnit* unit) {
    unit->DotBF16<kC, kA, kB>();
  }
  static V16 Centred(const QuantShape& shape, const void* dots, I16 zero, const char* sum) {
    // kShift is the zero point of symmetric formats.
    if (shape.zeros == 0) return Load(static_cast<const float*>(dots));
    const V16 share = ToFloats(SubInts(BroadcastInt(Columns::kShift), zero));
    return Fma(share, BroadcastWord(sum), Load(static_cast<const float*>(dots)));
  }

 private:
  // Returns the bf16 pairs of the two columns of pair `pair` of a step.
  static V16 PairOf(const char* lines, int pair) {
#if defined(TESSERA_HAS_DOT_BF16)
    return Columns::Outputs(lines, pair);
#else
    const int column = pair / 2 * 4 + pair % 2;
    alignas(64) uint32_t first[kPanel];
    alignas(64) uint32_t second[kPanel];
    Store(reinterpret_cast<float*>(first), Columns::Outputs(lines, column));
    Store(reinterpret_cast<float*>(second), Columns::Outputs(lines, column + 2));
    for (int i = 0; i < kPanel; ++i) first[i] = first[i] >> 16 | (second[i] & 0xffff0000u);
    return Load(reinterpret_cast<const float*>(first));
#endif
  }
};

// Adds one group of columns to the outputs of `rows` rows and one panel: out = fma(scale, dots,
// out), where `dots` are the tile's sums. The first group overwrites `out`.
template <class Lines>
void AddGroup(const QuantShape& shape, const TileProblem& tile, int64_t g, int row, int rows,
              int panel, const char* dots) {
  const char* const b = tile.b + panel * tile.panel_bytes;
  const V16 scale = LoadScales(shape, b, g);
  const I16 zero = shape.zeros != 0 ? LoadWideBytes(b + shape.zeros + kPanel * g)
                                    : BroadcastInt(shape.symmetric_zero);
  for (int r = 0; r < rows; ++r) {
    const char* const sum = tile.a + (row + r) * tile.a_stride + shape.row_sums + 4 * g;
    float* const out = tile.out + (row + r) * tile.out_stride + panel * kPanel;
    const V16 dot = Lines::Centred(shape, dots + r * kCacheLine, zero, sum);
    Store(out, Fma(scale, dot, g == 0 ? Zero() : Load(out)));
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
    const char* const a1 = tile.a + kTileRows * tile.a_stride;
    const int bytes = Lines::StepBytes(shape);
    const int step = bytes / Lines::kElementBytes;
    TileUnit unit;
    unit.Configure(MakeTileConfig(rows0, rows1, bytes));
    alignas(64) char dots[kTileBytes];
    for (int64_t g = 0; g < shape.num_groups; ++g) {
      unit.Zero<0>();
      if (kTwoPanels) unit.Zero<1>();
      if (kTwoRows) unit.Zero<2>();
      if (kTwoRows && kTwoPanels) unit.Zero<3>();
      const int64_t end = g + 1 < shape.num_groups ? (g + 1) * shape.group_size : shape.cols;
      for (int64_t k = g * shape.group_size; k < end; k += step) {
        const int count = LeastOf(end - k, step);
        Lines::template LoadRows<4>(&unit, tile.a, tile.a_stride, rows0, k, count);
        if (kTwoRows) Lines::template LoadRows<5>(&unit, a1, tile.a_stride, rows1, k, count);
        Lines::template LoadLines<6>(&unit, tile, 0, k, count, bytes);
        Lines::template Multiply<0, 4, 6>(&unit);
        if (kTwoRows) Lines::template Multiply<2, 5, 6>(&unit);
        if (!kTwoPanels) continue;
        Lines::template LoadLines<7>(&unit, tile, 1, k, count, bytes);
        Lines::template Multiply<1, 4, 7>(&unit);
        if (kTwoRows) Lines::template Multiply<3, 5, 7>(&unit);
      }
      unit.Store<0>(dots, kCacheLine);
      AddGroup<Lines>(shape, tile, g, 0, rows0, 0, dots);
      if (kTwoPanels) {
        unit.Store<1>(dots, kCacheLine);
        AddGroup<Lines>(shape, tile, g, 0, rows0, 1, dots);
      }
      if (kTwoRows) {
        unit.Store<2>(dots, kCacheLine);
        AddGroup<Lines>(shape, tile, g, kTileRows, rows1, 0, dots);
      }
      if (kTwoRows && kTwoPanels) {
        unit.Store<3>(dots, kCacheLine);
        AddGroup<Lines>(shape, tile, g, kTileRows, rows1, 1, dots);
      }
    }
    if (!Lines::kScaledRows) return;
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

void GemmI5(const GemmProblem& problem, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
            int64_t row_end) {
  GemmLoop<QuantTiles<Int5Lines>>(problem, panel_begin, panel_end, row_begin, row_end);
}

void GemmI8Rounded(const GemmProblem& problem, int64_t panel_begin, int64_t panel_end,
                   int64_t row_begin, int64_t row_end) {
  GemmLoop<QuantTiles<RoundedLines<Int8Columns>>>(problem, panel_begin, panel_end, row_begin,
                                                  row_end);
}

void GemmI4Rounded(const GemmProblem& problem, int64_t panel_begin, int64_t panel_end,
                   int64_t row_begin, int64_t row_end) {
  GemmLoop<QuantTiles<RoundedLines<Int4Columns>>>(problem, panel_begin, panel_end, row_begin,
                                                  row_end);
}

void GemmI5Rounded(const GemmProblem& problem, int64_t panel_begin, int64_t panel_end,
                   int64_t row_begin, int64_t row_end) {
  GemmLoop<QuantTiles<RoundedLines<Int5Columns>>>(problem, panel_begin, panel_end, row_begin,
                                                  row_end);
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
    table.gemm_i5 = &GemmI5;
    table.gemm_i8_rounded = &GemmI8Rounded;
    table.gemm_i4_rounded = &GemmI4Rounded;
    table.gemm_i5_rounded = &GemmI5Rounded;
    table.spin_multiply_adds = &SpinMultiplyAdds;
    table.spin_dots = &SpinDots;
    return table;
  }();
  return kernels;
}

}  // namespace tessera::cpu::TESSERA_ISA
