// Attention of up to 12 query rows of one KV head to one block of keys: scores (the register tile
// of tile.h over transposed keys), a partial softmax per row, and the weighted sum of the V rows.
// The V rows are read from their pages; on ISAs with a bf16 dot product, bf16 V is packed by pairs
// of keys and multiplied by the register tile. Int8 codes are widened in registers, so the panels
// of a block have the size of its codes. Scales are applied to scores and weights, 16 keys at a
// time. Per block, K and packed V are read once; V in pages is read once per call.
#include <cstring>

#include "kernels/cpu/isa_functions.h"
#include "kernels/cpu/tile.h"

namespace tessera::cpu::TESSERA_ISA {
namespace {

constexpr float kNegativeInfinity = -__builtin_inff();

int32_t Least(int32_t a, int32_t b) { return a < b ? a : b; }
int32_t Most(int32_t a, int32_t b) { return a > b ? a : b; }

constexpr int64_t ElementBytes(Element element) {
  return element == Element::kF32 ? 4 : element == Element::kBF16 ? 2 : 1;
}
// Returns the number of 4-byte words of a K row's elements, which is the number of 64-byte lines of
// a panel.
constexpr int64_t NumWords(Element element, int32_t head_dim) {
  return (head_dim * ElementBytes(element) + 3) / 4;
}
// Returns the bytes of a K or V row's elements.
constexpr int64_t RowBytes(Element element, int32_t head_dim) {
  return head_dim * ElementBytes(element);
}

// Prefetches a row. The rows of a block lie in pages that are scattered over memory, which the
// hardware prefetcher cannot predict. The row may be null.
TESSERA_INLINE void Prefetch(const void* row, int64_t bytes) {
  if (row == nullptr) return;
  for (int64_t at = 0; at < bytes; at += kCacheLine) {
    __builtin_prefetch(static_cast<const char*>(row) + at, 0, 2);
  }
}

// A range of keys [begin, end) of a block.
struct KeySpan {
  int32_t begin = kKeyBlock;
  int32_t end = 0;
};
// Returns the smallest span that contains every key that some row sees.
KeySpan VisibleSpan(const AttendProblem& problem) {
  KeySpan span;
  for (int32_t r = 0; r < problem.rows; ++r) {
    if (problem.visible_begin[r] >= problem.visible_end[r]) continue;
    span.begin = Least(span.begin, problem.visible_begin[r]);
    span.end = Most(span.end, problem.visible_end[r]);
  }
  return span;
}

// Prefetches the K rows problem.next_keys in `times` equal parts, one part per call of Ask.
class NextKeys {
 public:
  NextKeys(const AttendProblem& problem, int32_t times)
      : keys_(problem.next_keys),
        row_bytes_(RowBytes(problem.element, problem.head_dim)),
        left_(keys_ == nullptr ? 0 : kKeyBlock),
        share_((kKeyBlock + times - 1) / times) {}

  void Ask() {
    const int32_t count = Least(left_, share_);
    for (int32_t i = 0; i < count; ++i) Prefetch(keys_[i], row_bytes_);
    keys_ += count;
    left_ -= count;
  }

 private:
  const void* const* keys_;
  const int64_t row_bytes_;
  int32_t left_;
  const int32_t share_;
};

// Computes `panels` panels for any number of rows.
template <class Panel>
void ComputeRows(TileProblem tile, int32_t rows, int panels) {
  for (; rows > 0; rows -= kMaxRows) {
    ComputePanels<Panel>(tile, Least(rows, kMaxRows), panels);
    tile.a += kMaxRows * tile.a_stride;
    tile.out += kMaxRows * tile.out_stride;
  }
}

// Computes the raw dot products of all query rows with the keys of panels [panel_begin, panel_end).
template <class Panel>
void ScoreRows(const AttendProblem& problem, int panel_begin, int panel_end, int64_t steps) {
  TileProblem tile;
  tile.a = reinterpret_cast<const char*>(problem.q);
  tile.a_stride = problem.q_stride * 4;
  tile.panel_bytes = steps * kCacheLine;
  tile.b = static_cast<const char*>(problem.keys) + panel_begin * tile.panel_bytes;
  tile.prefetch = tile.b;  // the panels are in the cache, so no step prefetches new lines
  tile.steps = steps;
  tile.out = problem.scores + panel_begin * kPanel;
  tile.out_stride = kScoreStride;
  ComputeRows<Panel>(tile, problem.rows, panel_end - panel_begin);
}

// Stores 16 exponentials as the weights of the V rows of keys [key, key + 16). The rows of weights
// are kScoreStride floats apart even if the weights are bf16.
template <Element kElement>
void StoreWeights(const AttendProblem& problem, int32_t row, int32_t key, V16 e) {
  float* const weights = problem.weights + row * kScoreStride;
  if constexpr (kElement == Element::kI8) {
    Store(weights + key, Mul(e, Load(problem.value_scales + key)));
  }
  if constexpr (kElement == Element::kBF16) {
#if defined(TESSERA_HAS_DOT_BF16)
    StoreNormalBF16(reinterpret_cast<char*>(weights) + 2 * key, e);
#else
    Store(weights + key, RoundBF16(e));
#endif
  }
}

// Replaces a row's raw dot products by exp(score - max), or by 0 for keys that the row does not
// see, and stores them as weights.
template <Element kElement>
void SoftmaxRow(const AttendProblem& problem, int32_t row, int panel_begin, int panel_end,
                NextKeys* next_keys) {
  float* const scores = problem.scores + row * kScoreStride;
  const int32_t begin = problem.visible_begin[row];
  const int32_t end = problem.visible_end[row];
  const V16 scale = Set1(problem.scale);
  const V16 temperature = Set1(problem.temperature);
  const V16 hidden = Set1(kNegativeInfinity);
  V16 max = hidden;
  for (int p = panel_begin; p < panel_end; ++p) {
    V16 s = Load(scores + p * kPanel);
    if constexpr (kElement == Element::kI8) s = Mul(s, Load(problem.key_scales + p * kPanel));
    s = Mul(s, scale);
    if (problem.softcap > 0.0f) s = Softcap(s, problem.softcap);
    if (problem.temperature != 1.0f) s = Div(s, temperature);
    const bool whole = begin <= p * kPanel && end >= (p + 1) * kPanel;
    if (!whole) s = KeepLanes(s, begin - p * kPanel, end - p * kPanel, hidden);
    Store(scores + p * kPanel, s);
    max = Max(max, s);
  }
  // The exponential of a key that the row does not see is exactly 0, even if the row sees no key.
  const float row_max = begin < end ? ReduceMax(max) : 0.0f;
  V16 sum = Zero();
  for (int p = panel_begin; p < panel_end; ++p) {
    const V16 e = ExpNonPositive(Sub(Load(scores + p * kPanel), Set1(row_max)));
    Store(scores + p * kPanel, e);
    sum = Add(sum, e);
    StoreWeights<kElement>(problem, row, p * kPanel, e);
    next_keys->Ask();
  }
  problem.max[row] = row_max;
  problem.sum[row] = begin < end ? ReduceAdd(sum) : 0.0f;
}

template <Element kElement>
V16 LoadElements(const void* row, int64_t index) {
  const char* const first = static_cast<const char*>(row) + index * ElementBytes(kElement);
  if constexpr (kElement == Element::kF32) return Load(first);
  if constexpr (kElement == Element::kBF16) return LoadBF16(first);
  return ToFloats(LoadSignedBytes(first));
}

// out[r][16 v ...] = sum over keys of weight[r][key] * V[key][dim + 16 v ...], keys ascending.
template <Element kElement, int kRows, int kVectors>
void WeightedSum(const AttendProblem& problem, int32_t row, int32_t dim, KeySpan keys) {
  V16 acc[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) acc[r][v] = Zero();
  }
  const float* const weights = problem.weights + row * kScoreStride;
  for (int32_t key = keys.begin; key < keys.end; ++key) {
    const void* const value = problem.values[key];
    V16 x[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) x[v] = LoadElements<kElement>(value, dim + 16 * v);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const V16 weight = BroadcastWord(weights + r * kScoreStride + key);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) acc[r][v] = Fma(weight, x[v], acc[r][v]);
    }
  }
  float* const out = problem.out + row * problem.out_stride + dim;
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) Store(out + r * problem.out_stride + 16 * v, acc[r][v]);
  }
}

template <Element kElement, int kRows>
void WeightedSumRows(const AttendProblem& problem, int32_t row, KeySpan keys) {
  constexpr int kVectors = TilePanels(kRows);
  const int32_t dims = static_cast<int32_t>(problem.out_stride);
  int32_t dim = 0;
  for (; dim + 16 * kVectors <= dims; dim += 16 * kVectors) {
    WeightedSum<kElement, kRows, kVectors>(problem, row, dim, keys);
  }
  for (; dim < dims; dim += 16) WeightedSum<kElement, kRows, 1>(problem, row, dim, keys);
}

template <Element kElement>
void WeightedSums(const AttendProblem& problem, KeySpan keys) {
  for (int32_t row = 0; row < problem.rows; row += kMaxRows) {
    const int rows = Least(problem.rows - row, kMaxRows);
#define TESSERA_ROWS(R)                               \
  case R:                                             \
    WeightedSumRows<kElement, R>(problem, row, keys); \
    break
    switch (rows) {
      TESSERA_ROWS(1);
      TESSERA_ROWS(2);
      TESSERA_ROWS(3);
      TESSERA_ROWS(4);
      TESSERA_ROWS(5);
      TESSERA_ROWS(6);
#if !defined(TESSERA_ISA_AVX2)
      TESSERA_ROWS(7);
      TESSERA_ROWS(8);
      TESSERA_ROWS(9);
      TESSERA_ROWS(10);
      TESSERA_ROWS(11);
      TESSERA_ROWS(12);
#endif
    }
#undef TESSERA_ROWS
  }
}

// Transposes 16 K rows of row_bytes bytes (a null row is zeros) into lines of 16 words, one word of
// each row.
void TransposeRows(const void* const* keys, int64_t row_bytes, char* out) {
  alignas(64) static constexpr char kZeros[kMaxHeadDim * 4] = {};
  alignas(64) char tails[kPanel][64];
  alignas(64) char last[16 * 64];
  const int64_t whole_bytes = row_bytes / 64 * 64;
  const void* rows[kPanel];
  for (int i = 0; i < kPanel; ++i) rows[i] = keys[i] != nullptr ? keys[i] : kZeros;
  for (int64_t offset = 0; offset < whole_bytes; offset += 64) {
    TransposeWords(rows, offset, out + offset * 16);
  }
  if (whole_bytes == row_bytes) return;
  const int64_t tail_bytes = row_bytes - whole_bytes;
  for (int i = 0; i < kPanel; ++i) {
    std::memset(tails[i], 0, 64);
    rows[i] = tails[i];
    if (keys[i] == nullptr) continue;
    std::memcpy(tails[i], static_cast<const char*>(keys[i]) + whole_bytes,
                static_cast<size_t>(tail_bytes));
  }
  TransposeWords(rows, 0, last);
  std::memcpy(out + whole_bytes * 16, last, static_cast<size_t>((tail_bytes + 3) / 4 * kCacheLine));
}

template <Element kElement, class Panel>
void WeighKeys(const AttendProblem& problem, int panel_begin, int panel_end) {
  ScoreRows<Panel>(problem, panel_begin, panel_end, NumWords(kElement, problem.head_dim));
  NextKeys next_keys(problem, problem.rows * (panel_end - panel_begin));
  for (int32_t r = 0; r < problem.rows; ++r) {
    SoftmaxRow<kElement>(problem, r, panel_begin, panel_end, &next_keys);
  }
}

template <Element kElement, class Panel>
void AttendTo(const AttendProblem& problem, KeySpan keys) {
  WeighKeys<kElement, Panel>(problem, keys.begin / kPanel, (keys.end + kPanel - 1) / kPanel);
  WeightedSums<kElement>(problem, keys);
}

#if defined(TESSERA_HAS_DOT_BF16)
constexpr int64_t kValuePanelBytes = kKeyBlock / 2 * kCacheLine;

// Packs the V rows of the key panels [problem.pack_begin, problem.pack_end) by pairs of keys.
void PackValues(const AttendProblem& problem) {
  alignas(64) static constexpr char kZeros[2 * kMaxHeadDim] = {};
  const auto row = [&problem](int key) {
    return problem.values[key] != nullptr ? static_cast<const char*>(problem.values[key]) : kZeros;
  };
  for (int key = problem.pack_begin * kPanel; key < problem.pack_end * kPanel; key += 2) {
    const char* const first = row(key);
    const char* const second = row(key + 1);
    char* out = static_cast<char*>(problem.value_panels) + key / 2 * kCacheLine;
    for (int64_t dim = 0; dim < problem.out_stride; dim += kPanel, out += kValuePanelBytes) {
      Store(out, PairBF16(first + 2 * dim, second + 2 * dim));
    }
  }
}

void AttendToPairs(const AttendProblem& problem, KeySpan keys) {
  constexpr int kPanelSteps = kPanel / 2;
  const int panel_begin = keys.begin / kPanel;
  const int panel_end = (keys.end + kPanel - 1) / kPanel;
  WeighKeys<Element::kBF16, BF16DotPanel>(problem, panel_begin, panel_end);
  PackValues(problem);
  TileProblem tile;
  tile.a = reinterpret_cast<const char*>(problem.weights) + 2 * panel_begin * kPanel;
  tile.a_stride = 4 * kScoreStride;
  tile.panel_bytes = kValuePanelBytes;
  tile.b = static_cast<const char*>(problem.value_panels) + panel_begin * kPanelSteps * kCacheLine;
  tile.prefetch = tile.b;  // the panels are in the cache, so no step prefetches new lines
  tile.steps = (panel_end - panel_begin) * kPanelSteps;
  tile.out = problem.out;
  tile.out_stride = problem.out_stride;
  ComputeRows<BF16DotPanel>(tile, problem.rows, static_cast<int>(problem.out_stride / kPanel));
}
#endif

}  // namespace

void PackKeys(const void* const* keys, const void* const* values, Element element, int32_t head_dim,
              int32_t panel_begin, int32_t panel_end, void* panels) {
  // Prefetch distance. It matters for a first block, whose keys no Attend call has prefetched.
  constexpr int32_t kPanelsAhead = 3;
  const int64_t row_bytes = RowBytes(element, head_dim);
  const int64_t num_words = NumWords(element, head_dim);
  char* out = static_cast<char*>(panels) + panel_begin * num_words * kCacheLine;
  for (int32_t p = panel_begin; p < panel_end; ++p, out += num_words * kCacheLine) {
    const void* const* const ahead = keys + Least(p + kPanelsAhead, panel_end - 1) * kPanel;
    for (int i = 0; i < kPanel; ++i) {
      Prefetch(ahead[i], row_bytes);
      Prefetch(values[p * kPanel + i], row_bytes);
    }
    TransposeRows(keys + p * kPanel, row_bytes, out);
    if (element != Element::kI8) continue;
    for (int64_t w = 0; w < num_words; ++w) TransposeBytes(out + w * kCacheLine);
  }
}

void Attend(const AttendProblem& problem) {
  const KeySpan keys = VisibleSpan(problem);
  for (int32_t r = 0; r < problem.rows; ++r) problem.sum[r] = 0.0f;
  if (keys.begin >= keys.end) return;
  switch (problem.element) {
    case Element::kF32:
      return AttendTo<Element::kF32, F32Panel>(problem, keys);
    case Element::kBF16:
#if defined(TESSERA_HAS_DOT_BF16)
      return AttendToPairs(problem, keys);
#else
      return AttendTo<Element::kBF16, BF16Panel>(problem, keys);
#endif
    case Element::kI8:
      return AttendTo<Element::kI8, Int8Panel>(problem, keys);
  }
}

void Merge(float b_max, float b_sum, const float* b_out, int32_t padded_dim, float* max, float* sum,
           float* out) {
  if (*sum == 0.0f) {
    *max = b_max;
    *sum = b_sum;
    std::memcpy(out, b_out, sizeof(float) * static_cast<size_t>(padded_dim));
    return;
  }
  const float new_max = *max > b_max ? *max : b_max;
  alignas(64) float factors[kPanel] = {*max - new_max, b_max - new_max};
  Store(factors, ExpNonPositive(Load(factors)));
  const V16 a = Set1(factors[0]);
  const V16 b = Set1(factors[1]);
  *sum = *sum * factors[0] + b_sum * factors[1];
  *max = new_max;
  for (int32_t i = 0; i < padded_dim; i += 16) {
    Store(out + i, Add(Mul(Load(out + i), a), Mul(Load(b_out + i), b)));
  }
}

void Divide(const float* x, float divisor, int32_t count, float* out) {
  for (int32_t i = 0; i < count; i += 16) {
    StoreN(out + i, Div(LoadN(x + i, count - i), Set1(divisor)), count - i);
  }
}

}  // namespace tessera::cpu::TESSERA_ISA
