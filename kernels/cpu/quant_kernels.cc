// The inner loops of Linear and Logits on int8 and int4 weights (kernels/device/weight_format.h):
// exact integer dot products within a group of columns, fp32 sums across groups. Every panel is
// read from memory once per block of rows; int4 codes are unpacked in registers. With few rows, the
// time is that of reading the weight's bytes from memory; with many rows, the dot products of 4
// bytes per lane limit the speed.
#include "kernels/cpu/gemm_loop.h"
#include "kernels/cpu/isa_functions.h"

namespace tessera::cpu::TESSERA_ISA {
namespace {

// A Codes type defines one step of the product: a line of codes is unpacked into kParts vectors of
// weights, which are multiplied with the next kRowBytes bytes of a row. A weight is code - kShift.
struct Int8Codes {
  static constexpr int kMaxRows = kMaxQuantRows;
  // An int8 weight often has one group, so its sums are rarely loaded and stored.
  static constexpr bool SumsInRegisters(int rows, int panels) { return false; }
  static constexpr int kParts = 1;
  static constexpr int64_t kRowBytes = 4;
  static constexpr int kShift = kByteShift;
  using Weights = ByteWeights;
  TESSERA_INLINE Weights Outputs(const char* b, int part) { return LoadByteWeights(b); }
  TESSERA_INLINE I16 Dot(I16 acc, const Weights& w, I16 x) { return DotBytes(acc, w, x); }
};
struct Int4Codes {
  static constexpr int kMaxRows = kMaxGroupedRows;
  static constexpr bool SumsInRegisters(int rows, int panels) { return GroupSumsFit(rows, panels); }
  static constexpr int kParts = 2;
  static constexpr int64_t kRowBytes = 8;
  static constexpr int kShift = 0;
  using Weights = I16;
  TESSERA_INLINE Weights Outputs(const char* b, int part) {
    return part == 0 ? LowNibbles(LoadInts(b)) : HighNibbles(LoadInts(b));
  }
  TESSERA_INLINE I16 Dot(I16 acc, const Weights& w, I16 x) { return DotNibbles(acc, w, x); }
};

// Returns the 16 scales of group g of a panel.
TESSERA_INLINE V16 LoadScales(const QuantShape& shape, const char* panel, int64_t g) {
  const char* const scales = panel + shape.scales;
  if (shape.scale_type == ScaleType::kBF16) return LoadBF16(scales + 2 * kPanel * g);
  if (shape.scale_type == ScaleType::kF16) return LoadF16(scales + 2 * kPanel * g);
  return Load(scales + 4 * kPanel * g);
}

// Returns the sum of the codes of group g of a prepared row.
TESSERA_INLINE int32_t LoadSum(const QuantShape& shape, const char* row, int64_t g) {
  int32_t sum;
  std::memcpy(&sum, row + shape.row_sums + 4 * g, sizeof(sum));
  return sum;
}

// Prefetches the scales and zero points of a tile's panels, if the tile is bound by memory (the
// only tile of its panels). The codes are prefetched line by line during the product.
template <int kPanels>
TESSERA_INLINE void PrefetchScales(const QuantShape& shape, const TileProblem& tile) {
  if (tile.prefetch_stride != kCacheLine || shape.num_groups == 1) return;
  for (int64_t at = shape.scales; at < tile.panel_bytes; at += kCacheLine) {
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) __builtin_prefetch(tile.b + p * tile.panel_bytes + at);
  }
}

// Starts the dot products of group g with the share of the group's zero points: (kShift - zero) *
// sum of the row's codes.
template <class Codes, int kRows, int kPanels>
TESSERA_INLINE void StartGroup(const QuantShape& shape, const TileProblem& tile, int64_t g,
                               I16 (&dots)[kRows][kPanels]) {
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
    I16 zero = BroadcastInt(Codes::kShift - shape.symmetric_zero);
    if (shape.zeros != 0) {
      const char* const zeros = tile.b + p * tile.panel_bytes + shape.zeros + kPanel * g;
      zero = SubInts(BroadcastInt(Codes::kShift), LoadWideBytes(zeros));
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      dots[r][p] = MulInts(zero, BroadcastInt(LoadSum(shape, tile.a + r * tile.a_stride, g)));
    }
  }
}

// Adds the products of one line: `a` are the next codes of the first row, `b` is the line of the
// first panel.
template <class Codes, int kRows, int kPanels>
TESSERA_INLINE void AddLine(const char* a, int64_t a_stride, const char* b, int64_t panel_bytes,
                            I16 (&dots)[kRows][kPanels]) {
#pragma GCC unroll 2
  for (int part = 0; part < Codes::kParts; ++part) {
    typename Codes::Weights w[kPanels];
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) w[p] = Codes::Outputs(b + p * panel_bytes, part);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const I16 x = BroadcastBytes(a + r * a_stride + 4 * part);
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) {
        dots[r][p] = Codes::Dot(dots[r][p], w[p], x);
        KeepInRegister(&dots[r][p]);  // without this call g++ reorders and spills registers
      }
    }
  }
}

// Adds the scaled dot products of group g to the sums across groups, which are `sums` if
// kSumsInRegisters, else tile.out.
template <bool kSumsInRegisters, int kRows, int kPanels>
TESSERA_INLINE void EndGroup(const QuantShape& shape, const TileProblem& tile, int64_t g,
                             const I16 (&dots)[kRows][kPanels], V16 (&sums)[kRows][kPanels]) {
#pragma GCC unroll 4
  for (int p = 0; p < kPanels; ++p) {
    const V16 scales = LoadScales(shape, tile.b + p * tile.panel_bytes, g);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      float* const stored = tile.out + r * tile.out_stride + p * kPanel;
      V16 sum = sums[r][p];
      if (!kSumsInRegisters && g > 0) sum = Load(stored);
      sum = Fma(scales, ToFloats(dots[r][p]), sum);
      if (kSumsInRegisters) {
        sums[r][p] = sum;
      } else {
        Store(stored, sum);
      }
    }
  }
}

// Multiplies the sums across groups by the rows' scales and stores them.
template <bool kSumsInRegisters, int kRows, int kPanels>
TESSERA_INLINE void ScaleRows(const QuantShape& shape, const TileProblem& tile,
                              const V16 (&sums)[kRows][kPanels]) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    const V16 row_scale = BroadcastWord(tile.a + r * tile.a_stride + shape.row_scale);
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) {
      float* const y = tile.out + r * tile.out_stride + p * kPanel;
      Store(y, Mul(kSumsInRegisters ? sums[r][p] : Load(y), row_scale));
    }
  }
}

// Computes one register tile of kRows rows times kPanels panels. The sums across groups stay in
// registers if they fit. Otherwise they are loaded and stored once per group, which with groups of
// 32 costs as much as the group's dot products.
template <class Codes, int kRows, int kPanels>
void ComputeQuantTile(const QuantShape& shape, const TileProblem& tile) {
  constexpr bool kSumsInRegisters = Codes::SumsInRegisters(kRows, kPanels);
  const char* a = tile.a;
  const char* b = tile.b;
  const char* next = tile.prefetch;
  const int64_t next_stride = tile.prefetch_stride;
  const int64_t a_stride = tile.a_stride;
  const int64_t panel_bytes = tile.panel_bytes;
  int64_t lines_left = tile.steps;
  PrefetchScales<kPanels>(shape, tile);
  V16 sums[kRows][kPanels];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int p = 0; p < kPanels; ++p) sums[r][p] = Zero();
  }
  for (int64_t g = 0; g < shape.num_groups; ++g) {
    I16 dots[kRows][kPanels];
    StartGroup<Codes>(shape, tile, g, dots);
    const int64_t lines = lines_left < shape.group_lines ? lines_left : shape.group_lines;
    lines_left -= lines;
    for (int64_t s = lines; s > 0; --s) {
      if (lines_left + s == tile.jump_steps) next += tile.prefetch_jump;
#pragma GCC unroll 4
      for (int p = 0; p < kPanels; ++p) __builtin_prefetch(next + p * panel_bytes);
      next += next_stride;
      AddLine<Codes>(a, a_stride, b, panel_bytes, dots);
      a += Codes::kRowBytes;
      b += kCacheLine;
    }
    EndGroup<kSumsInRegisters>(shape, tile, g, dots, sums);
  }
  ScaleRows<kSumsInRegisters>(shape, tile, sums);
}

using QuantTile = void (*)(const QuantShape&, const TileProblem&);

template <class Codes, int kRows>
QuantTile FindTileOfRows(int panels) {
  constexpr int kMost = QuantTilePanels(kRows);
  if constexpr (kMost >= 4) {
    if (panels >= 4) return &ComputeQuantTile<Codes, kRows, 4>;
  }
  if constexpr (kMost >= 2) {
    if (panels >= 2) return &ComputeQuantTile<Codes, kRows, 2>;
  }
  return &ComputeQuantTile<Codes, kRows, 1>;
}

template <class Codes, int kRows = 1>
QuantTile FindQuantTile(int rows, int panels) {
  if constexpr (kRows < Codes::kMaxRows) {
    if (rows > kRows) return FindQuantTile<Codes, kRows + 1>(rows, panels);
  }
  return FindTileOfRows<Codes, kRows>(panels);
}

template <class Codes>
struct QuantFormat {
  static constexpr int kMaxRows = Codes::kMaxRows;
  // A tile that is alone with its panels is bound by memory and takes as many panels as possible.
  // Other tiles are bound by arithmetic and take two panels if their sums then fit in registers.
  static constexpr int Panels(int rows, bool alone) {
    const int panels = QuantTilePanels(rows);
    return !alone && Codes::SumsInRegisters(rows, 2) ? 2 : panels;
  }
  static void Compute(const GemmProblem& problem, TileProblem tile, int rows, int panels) {
    for (int width = QuantTilePanels(rows); width > 0; width /= 2) {
      if (panels < width) continue;
      const QuantTile compute = FindQuantTile<Codes>(rows, width);
      for (; panels >= width; panels -= width) {
        compute(*problem.quant, tile);
        tile.b += width * tile.panel_bytes;
        tile.prefetch += width * tile.panel_bytes;
        tile.out += width * kPanel;
      }
    }
  }
};

}  // namespace

void GemmI8(const GemmProblem& problem, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
            int64_t row_end) {
  GemmLoop<QuantFormat<Int8Codes>>(problem, panel_begin, panel_end, row_begin, row_end);
}

void GemmI4(const GemmProblem& problem, int64_t panel_begin, int64_t panel_end, int64_t row_begin,
            int64_t row_end) {
  GemmLoop<QuantFormat<Int4Codes>>(problem, panel_begin, panel_end, row_begin, row_end);
}

double SpinDots(int64_t iterations) {
  constexpr int kAccumulators = kMaxRows == 12 ? 24 : 4;
  alignas(64) const char ones[64] = {1};
  const ByteWeights w = LoadByteWeights(ones);
  const I16 x = BroadcastInt(1);
  I16 acc[kAccumulators];
#pragma GCC unroll 24
  for (int j = 0; j < kAccumulators; ++j) acc[j] = BroadcastInt(0);
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 24
    for (int j = 0; j < kAccumulators; ++j) {
      acc[j] = DotBytes(acc[j], w, x);
      KeepInRegister(&acc[j]);
    }
  }
  // An instruction computes 4 products and 4 sums per lane.
  return 8.0 * kPanel * kAccumulators * static_cast<double>(iterations);
}

#if defined(TESSERA_BASE_ISA)
const IsaKernels& Kernels() {
  static const IsaKernels kernels = [] {
    IsaKernels table = TESSERA_BASE_ISA::Kernels();
    table.name = TESSERA_ISA_NAME;
    table.gemm_i8 = &GemmI8;
    table.gemm_i4 = &GemmI4;
    table.spin_dots = &SpinDots;
    return table;
  }();
  return kernels;
}
#endif

}  // namespace tessera::cpu::TESSERA_ISA
