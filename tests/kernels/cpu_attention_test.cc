// Tests of the cpu backend's attention on every ISA: it is compared with ref, and a row must have
// the same bits alone and in any batch or chunk, for any division into runs and any number of
// threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "kernels/base/thread_team.h"
#include "kernels/device/backend.h"
#include "kernels/step/attention_plan.h"
#include "tests/lib/kv_rows.h"
#include "tests/lib/op_fixtures.h"
#include "tests/lib/op_properties.h"
#include "tests/lib/sanitizers.h"

namespace tessera::testing {
namespace {

// Tests with one thread run every kGridStride-th case of the grid. Under the thread sanitizer these
// tests take ten times as long and cannot find a data race, so they skip most cases.
constexpr int kGridStride = kThreadSanitizer ? 5 : 1;

// A score is a sum of head_dim products of unit normal numbers, with |score| <= 5 and an error of
// about 1e-6. The exponential of the score has that error as a relative error. An output is a
// weighted mean of values of order 1.
constexpr double kAbsTolerance = 4e-6;
constexpr double kRelTolerance = 4e-6;

// With bf16 pages, one exponential (or query element) in a few thousand is rounded to the other
// neighbouring bf16, a relative change of 2^-8. This changes an output very little, and the mean
// difference even less. The mean difference from a ref without rounding would be above 1e-4.
constexpr double kBorder = 8e-3;
constexpr double kMeanTolerance = 4e-6;
void ExpectSameAttention(DType dtype, const std::vector<float>& actual,
                         const std::vector<float>& expected, const std::string& what) {
  if (dtype != DType::kBF16) {
    ExpectClose(actual, expected, kAbsTolerance, kRelTolerance, what);
    return;
  }
  ExpectClose(actual, expected, kBorder, kRelTolerance, what);
  double sum = 0.0;
  for (size_t i = 0; i < actual.size(); ++i) sum += std::fabs(actual[i] - expected[i]);
  EXPECT_LT(sum / static_cast<double>(actual.size()), kMeanTolerance) << what;
}

class CpuAttentionTest : public ::testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Backend> New(ThreadTeam* team) const { return NewCpuBackend(GetParam(), team); }
};

INSTANTIATE_TEST_SUITE_P(Isa, CpuAttentionTest, ::testing::ValuesIn(CpuIsas()),
                         [](const auto& info) { return info.param; });

// Compares pages as floats, because ref and cpu sum a norm in different orders and may therefore
// round the last bit of a key differently.
std::vector<float> PoolValues(BuiltBatch* built) {
  const PoolView pool = built->pool();
  const GroupLayout& layout = built->layout.groups[0];
  const char* const end = pool.base + pool.num_slabs * pool.slab_bytes;
  std::vector<float> values;
  for (const char* head = pool.base; head < end; head += layout.head_stride()) {
    for (int token = 0; token < layout.page_tokens; ++token) {
      const std::vector<float> numbers = LoadKvRow(layout, head, token, 1);  // as they are stored
      values.insert(values.end(), numbers.begin(), numbers.end());
    }
  }
  return values;
}

// Tests all ISAs in one test, so that the slow ref runs once per case and not once per ISA.
TEST(CpuAttentionGridTest, MatchesRef) {
  ThreadTeam team(2);
  const auto ref = NewRefBackend();
  for (const AttentionCase& attention : AttentionGrid()) {
    for (int group = 0; group < static_cast<int>(attention.windows.size()); ++group) {
      const int layer = attention.layers_per_group - 1;
      const auto for_ref = BuildBatch(attention, 5);
      const std::vector<float> expected = RunAttention(ref.get(), for_ref.get(), group, layer);
      const std::vector<float> expected_pool = PoolValues(for_ref.get());
      for (const std::string& isa : CpuIsas()) {
        const auto cpu = NewCpuBackend(isa, &team);
        const auto built = BuildBatch(attention, 5);
        const std::vector<float> actual = RunAttention(cpu.get(), built.get(), group, layer);
        ExpectSameAttention(attention.kv_dtype, actual, expected, isa + " " + attention.name);
        // A key after its norm may be rounded to the other neighbouring number.
        const bool bf16_border = attention.qk_norm && attention.kv_dtype == DType::kBF16;
        const bool int8_border = attention.qk_norm && attention.kv_dtype == DType::kI8;
        ExpectClose(PoolValues(built.get()), expected_pool, int8_border ? 8.0 / 127.0 : 1e-6,
                    bf16_border ? 8e-3 : 1e-6, isa + " " + attention.name + " pool");
      }
    }
  }
}

// Rows of zeros, of tiny numbers, of numbers that are not finite, and of numbers halfway between
// two codes must be stored byte for byte as kernels/step/page_layout.h defines. Keys of 48 numbers
// are rotated by blocks of 16, keys of 22 are not.
TEST_P(CpuAttentionTest, Int8RowsAreStoredAsTheFormatSays) {
  ThreadTeam team(1);
  const auto cpu = New(&team);
  const auto ref = NewRefBackend();
  AttentionCase attention;
  attention.rotary_dim = 0;
  attention.kv_dtype = DType::kI8;
  attention.segments = {{0, 6}};
  const float specials[6][3] = {{0.0f, -0.0f, 0.0f},       {9e-31f, -1e-38f, 0.0f},
                                {1e-30f, -3e-31f, 7e-31f}, {1.0f, -INFINITY, 2.0f},
                                {NAN, 1.0f, -2.0f},        {-127.0f, 2.5f, 3.5f}};
  for (const auto& [backend, head_dim] :
       {std::pair{cpu.get(), 22}, {ref.get(), 22}, {cpu.get(), 48}, {ref.get(), 48}}) {
    attention.head_dim = head_dim;
    const auto built = BuildBatch(attention, 4);
    const GroupLayout& layout = built->layout.groups[0];
    for (int t = 0; t < 6; ++t) {
      float* const row = built->qkv.data() + static_cast<ptrdiff_t>(t) * built->qkv_cols();
      for (int i = 0; i < built->qkv_cols(); ++i) row[i] = specials[t][i % head_dim % 3];
    }
    RunAttention(backend, built.get());
    for (int t = 0; t < 6; ++t) {
      const int64_t place = built->view().write_places(0)[t];
      const int token = static_cast<int>(place % 16);
      const char* const keys =
          built->pool().Page(static_cast<PageId>(place / 16)) + layout.HeadOffset(0, 1);
      std::vector<float> numbers;
      for (int d = 0; d < head_dim; ++d) numbers.push_back(specials[t][d % 3]);
      for (const int part : {0, 1}) {
        std::vector<char> expected(static_cast<size_t>(layout.head_stride()));
        StoreKvRow(layout, numbers, expected.data(), token, part);
        EXPECT_EQ(KvRowBytes(layout, keys + part * layout.value_offset(), token),
                  KvRowBytes(layout, expected.data(), token))
            << backend->name() << " head_dim " << head_dim << " row " << t << " part " << part;
      }
    }
  }
}

// One channel of all keys is many times larger than the others. V rows hold the same numbers and
// are not rotated, so their error is what the keys would have without the rotation.
TEST_P(CpuAttentionTest, ALargeChannelOfKeysDoesNotTakeTheScale) {
  ThreadTeam team(1);
  const auto cpu = New(&team);
  const auto ref = NewRefBackend();
  AttentionCase attention;
  attention.head_dim = 64;
  attention.rotary_dim = 0;
  attention.kv_dtype = DType::kI8;
  attention.segments = {{0, 8}};
  for (Backend* const backend : {cpu.get(), ref.get()}) {
    const auto built = BuildBatch(attention, 6);
    const GroupLayout& layout = built->layout.groups[0];
    const int keys_begin = attention.heads * attention.head_dim;
    const int row_numbers = attention.kv_heads * attention.head_dim;
    for (int t = 0; t < 8; ++t) {
      float* const keys =
          built->qkv.data() + static_cast<ptrdiff_t>(t) * built->qkv_cols() + keys_begin;
      for (int i = 5; i < row_numbers; i += attention.head_dim) keys[i] = 40.0f;
      std::copy_n(keys, row_numbers, keys + row_numbers);
    }
    const std::vector<float> qkv = built->qkv;
    RunAttention(backend, built.get());
    double squares[2] = {};  // of the errors of K and of V
    for (int t = 0; t < 8; ++t) {
      const int64_t place = built->view().write_places(0)[t];
      const char* const page = built->pool().Page(static_cast<PageId>(place / 16));
      for (int part : {0, 1}) {
        const std::vector<float> stored =
            LoadKvRow(layout, page + layout.HeadOffset(0, 0) + part * layout.value_offset(),
                      static_cast<int>(place % 16), part);
        for (int d = 0; d < attention.head_dim; ++d) {
          const double error =
              stored[d] - qkv[static_cast<size_t>(t * built->qkv_cols() + keys_begin + d)];
          squares[part] += error * error;
        }
      }
    }
    EXPECT_LT(std::sqrt(squares[0]), std::sqrt(squares[1]) / 3.0) << backend->name();
  }
}

// Cases: head_dim is not a multiple of the vector size; head_dim / 2 is odd; long windows cross
// block borders.
TEST_P(CpuAttentionTest, RaggedHeadsMatchRef) {
  ThreadTeam team(1);
  const auto cpu = New(&team);
  const auto ref = NewRefBackend();
  for (int head_dim : {2, 6, 10, 24, 40, 72, 104, 120}) {
    for (DType dtype : {DType::kF32, DType::kBF16, DType::kI8}) {
      AttentionCase attention;
      attention.name = "dim" + std::to_string(head_dim);
      attention.heads = 6;
      attention.kv_heads = 2;
      attention.head_dim = head_dim;
      attention.kv_dtype = dtype;
      attention.windows = {257};
      attention.qk_norm = true;
      attention.segments = {{500, 1}, {0, 37}, {300, 4}};
      const auto for_cpu = BuildBatch(attention, 9);
      const auto for_ref = BuildBatch(attention, 9);
      // A key element that is rounded to the other neighbour changes one product of a score by 2^-9
      // (int8: by 1/127 of the row's largest number).
      const double abs = dtype == DType::kF32 ? kAbsTolerance : 2e-3;
      ExpectClose(RunAttention(cpu.get(), for_cpu.get()), RunAttention(ref.get(), for_ref.get()),
                  abs, kRelTolerance, attention.name);
    }
  }
}

// In these tiles, the last rows see a block of keys of which the first rows see no key.
TEST_P(CpuAttentionTest, TilesAcrossBlocksMatchRef) {
  ThreadTeam team(1);
  const auto cpu = New(&team);
  const auto ref = NewRefBackend();
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kI8}) {
    AttentionCase attention;
    attention.heads = 2;
    attention.kv_heads = 2;
    attention.kv_dtype = dtype;
    attention.segments = {{200, 90}, {470, 130}};
    const auto for_cpu = BuildBatch(attention, 12);
    const auto for_ref = BuildBatch(attention, 12);
    ExpectSameAttention(dtype, RunAttention(cpu.get(), for_cpu.get()),
                        RunAttention(ref.get(), for_ref.get()), DTypeName(dtype));
  }
}

TEST_P(CpuAttentionTest, ThreadsDoNotShow) {
  ThreadTeam one(1);
  const auto alone = New(&one);
  for (const AttentionCase& attention : AttentionGrid()) {
    const auto built = BuildBatch(attention, 5);
    const std::vector<float> expected = RunAttention(alone.get(), built.get());
    for (int threads : {2, 3}) {
      ThreadTeam team(threads);
      const auto cpu = New(&team);
      ExpectSameBits(RunAttention(cpu.get(), built.get()), expected, attention.name);
    }
  }
}

// Returns segment `s` of a batch as a separate batch with the same pool, pages and rows.
struct Alone {
  StepBatch batch;
  BatchArena arena;
  std::vector<float> qkv;
  std::vector<float> out;
};
std::vector<float> RunAlone(Backend* backend, BuiltBatch* built, int s, int row_begin,
                            int num_rows) {
  const BatchView view = built->view();
  const Segment segment = view.segments()[s];
  const int first = segment.token_begin + row_begin;
  Alone alone;
  alone.batch.num_groups = 1;
  alone.batch.tokens = alone.arena.Add<TokenId>(static_cast<size_t>(num_rows));
  alone.batch.positions = alone.arena.AddCopy(
      std::vector<int32_t>(view.positions() + first, view.positions() + first + num_rows));
  alone.batch.write_places = alone.arena.AddCopy(
      std::vector<int64_t>(view.write_places(0) + first, view.write_places(0) + first + num_rows));
  alone.batch.segments = alone.arena.AddCopy(std::vector<Segment>{{0, 0, num_rows, -1}});
  const Range runs = view.run_range(0, s);
  alone.batch.run_ranges = alone.arena.AddCopy(std::vector<Range>{{0, runs.count}});
  alone.batch.runs = alone.arena.AddCopy(
      std::vector<KvRun>(view.runs() + runs.begin, view.runs() + runs.begin + runs.count));
  alone.batch.pages = alone.arena.AddCopy(
      std::vector<PageId>(view.pages(), view.pages() + built->batch.pages.count));
  const float* const qkv = built->qkv.data() + static_cast<ptrdiff_t>(first) * built->qkv_cols();
  alone.qkv.assign(qkv, qkv + static_cast<ptrdiff_t>(num_rows) * built->qkv_cols());
  alone.out.resize(static_cast<size_t>(num_rows) * static_cast<size_t>(built->out_cols()));
  AttentionArgs args = built->Args(0, 0, alone.qkv.data(), alone.out.data());
  args.batch = {&alone.batch, alone.arena.base()};
  args.qkv.rows = args.out.rows = num_rows;
  BeginStep(backend, args.batch, built->shape());
  backend->Attention(args);
  return alone.out;
}

// Runs the whole batch first, so that all keys are in the pages, then each segment alone and in
// chunks. The rows of a chunk must ignore the keys of later rows, which are already in the pages.
TEST_P(CpuAttentionTest, SegmentAloneEqualsSegmentInBatch) {
  ThreadTeam team(1);
  const auto cpu = New(&team);
  for (const AttentionCase& attention : AttentionGrid()) {
    const auto built = BuildBatch(attention, 5);
    const std::vector<float> all = RunAttention(cpu.get(), built.get());
    const ptrdiff_t cols = built->out_cols();
    for (int s = 0; s < built->view().num_segments(); ++s) {
      const Segment segment = built->view().segments()[s];
      for (int chunk : {1, 16, segment.num_tokens}) {
        if (chunk == 1 && segment.num_tokens > 20) continue;
        for (int row = 0; row < segment.num_tokens; row += chunk) {
          const int count = std::min(chunk, segment.num_tokens - row);
          const auto begin = all.begin() + (segment.token_begin + row) * cols;
          ExpectSameBits(RunAlone(cpu.get(), built.get(), s, row, count),
                         std::vector<float>(begin, begin + count * cols),
                         attention.name + " segment " + std::to_string(s));
        }
      }
    }
  }
}

// Blocks that segments share are loaded once for all these segments. Each segment must have the
// same bits as alone in a batch.
TEST_P(CpuAttentionTest, SharedPrefixesDoNotShow) {
  const auto ref = NewRefBackend();
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kI8}) {
    const auto built = BuildSharingBatch(dtype, 11);
    const std::vector<float> expected = RunAttention(ref.get(), built.get());
    for (int threads : {1, 2, 3}) {
      ThreadTeam team(threads);
      const auto cpu = New(&team);
      const std::vector<float> all = RunAttention(cpu.get(), built.get());
      ExpectSameAttention(dtype, all, expected, "sharing");
      for (int s = 0; s < built->view().num_segments(); ++s) {
        const Segment segment = built->view().segments()[s];
        const auto begin = all.begin() + segment.token_begin * built->out_cols();
        ExpectSameBits(RunAlone(cpu.get(), built.get(), s, 0, segment.num_tokens),
                       std::vector<float>(begin, begin + segment.num_tokens * built->out_cols()),
                       "segment " + std::to_string(s));
      }
    }
  }
}

// Fewer partials than the step's plan asks for: tiles are cut and blocks are shared as far as they
// go.
TEST_P(CpuAttentionTest, FewPartialsDoNotShow) {
  ThreadTeam team(3);
  const auto built = BuildSharingBatch(DType::kBF16, 11);
  const std::vector<float> expected = RunAttention(New(&team).get(), built.get());
  const StepShape shape = built->shape();
  for (const int64_t bytes : {int64_t{0}, int64_t{20000}, int64_t{100000}}) {
    const auto cpu = New(&team);
    WorkPlan plan = cpu->Plan(built->view(), shape);
    ASSERT_GT(plan.Bytes(WorkPart::kPartials), bytes);
    plan.Set(WorkPart::kPartials, bytes);
    cpu->BeginStep(built->view(), shape, plan);
    std::vector<float> qkv = built->qkv;
    std::vector<float> out(expected.size());
    cpu->Attention(built->Args(0, 0, qkv.data(), out.data()));
    ExpectSameBits(out, expected, std::to_string(bytes));
    EXPECT_EQ(cpu->num_grown(), 0);
  }
}

TEST_P(CpuAttentionTest, RunsPagesAndChunksDoNotShow) {
  ThreadTeam team(1);
  const auto cpu = New(&team);
  int number = 0;
  for (const AttentionCase& attention : AttentionGrid()) {
    // Instructions of a sanitizer make each case ten times as slow; fewer cases do the same there.
    if (number++ % (kSanitized ? 4 * kGridStride : kGridStride) != 0) continue;
    ExpectRunsDoNotShow(cpu.get(), attention, 2);
    ExpectPagesDoNotShow(cpu.get(), attention, 8, 3);
    ExpectChunksDoNotShow(cpu.get(), attention, 7, 4);
  }
}

// All layers of a step use the same rope tables and tasks.
TEST_P(CpuAttentionTest, LayersOfAStepAreIndependent) {
  ThreadTeam team(2);
  const auto cpu = New(&team);
  AttentionCase attention;
  attention.windows = {0, 24};
  attention.layers_per_group = 2;
  attention.segments = {{37, 20}, {300, 1}};
  const auto step = BuildBatch(attention, 8);
  const auto other = New(&team);
  BeginStep(cpu.get(), step->view(), step->shape());
  for (int group = 0; group < 2; ++group) {
    for (int layer = 0; layer < 2; ++layer) {
      std::vector<float> qkv = step->qkv;
      std::vector<float> out(static_cast<size_t>(step->num_tokens()) *
                             static_cast<size_t>(step->out_cols()));
      cpu->Attention(step->Args(group, layer, qkv.data(), out.data()));
      const auto alone = BuildBatch(attention, 8);
      ExpectSameBits(out, RunAttention(other.get(), alone.get(), group, layer));
    }
  }
}

// Takes all taps of a layer in one call.
TEST_P(CpuAttentionTest, TapsMatchRef) {
  ThreadTeam team(2);
  const auto cpu = New(&team);
  const auto ref = NewRefBackend();
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kI8}) {
    AttentionCase attention;
    attention.heads = 6;
    attention.head_dim = 64;
    attention.kv_dtype = dtype;
    attention.layers_per_group = 3;
    attention.segments = {
        {40, 90}, {600, 3}, {20, 6, 2, {{100, 50, 50, 0.8f, 0.9f}, {280, 200, -30, 0.8f, 0.9f}}}};
    std::vector<float> results[2];
    Backend* const backends[2] = {cpu.get(), ref.get()};
    std::vector<float> plain = RunAttention(cpu.get(), BuildBatch(attention, 3).get(), 0, 1);
    for (int b = 0; b < 2; ++b) {
      const auto built = BuildBatch(attention, 3);
      std::vector<Tap> taps;
      int floats = 0;
      for (int s = 0; s < 3; ++s) {
        for (TapKind kind :
             {TapKind::kAttentionMass, TapKind::kLogSumExp, TapKind::kValueDeviation}) {
          Tap tap;
          tap.kind = kind;
          tap.segment = s;
          tap.row_begin = s == 0 ? 11 : 1;
          tap.num_rows = s == 0 ? 60 : 2;
          tap.layer_begin = 1;
          tap.layer_end = 3;
          tap.block = 7;
          tap.out_begin = floats;
          tap.out_count =
              static_cast<int32_t>(2 * TapFloatsPerLayer(built->view(), tap, attention.heads, 0));
          floats += tap.out_count;
          taps.push_back(tap);
        }
      }
      built->batch.taps = built->arena.AddCopy(taps);
      built->batch.num_tap_floats = floats;
      const std::vector<float> out = RunAttention(backends[b], built.get(), 0, 1, &results[b]);
      if (b == 0) ExpectSameBits(out, plain, "taps do not change the result");
    }
    EXPECT_GT(*std::max_element(results[0].begin(), results[0].end()), 1.0f);
    ExpectClose(results[0], results[1], 1e-5, 1e-5, DTypeName(dtype));
  }
}

TEST_P(CpuAttentionTest, PaddingWritesNothing) {
  ThreadTeam team(2);
  const auto cpu = New(&team);
  AttentionCase attention;
  attention.segments = {{0, 4}};
  const auto built = BuildBatch(attention, 1);
  std::vector<int64_t> places = {0, 3, 15, 7};  // places of the null page
  built->batch.write_places = built->arena.AddCopy(places);
  const std::vector<uint64_t> before = built->pool_words;
  RunAttention(cpu.get(), built.get());
  EXPECT_EQ(built->pool_words, before);
}

}  // namespace
}  // namespace tessera::testing
