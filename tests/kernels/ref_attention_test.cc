// Tests of the reference backend's attention: against the definition in fp64, and for equal bits
// of equivalent batches.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "kernels/device/backend.h"
#include "kernels/step/attention_plan.h"
#include "tests/lib/naive_ops.h"
#include "tests/lib/op_fixtures.h"
#include "tests/lib/op_properties.h"

namespace tessera::testing {
namespace {

class RefAttention : public ::testing::TestWithParam<AttentionCase> {
 protected:
  std::unique_ptr<Backend> backend_ = NewRefBackend();
};

// A new bf16 or int8 key may be rounded to neighbouring values after rotations in fp32 and in fp64.
double Tolerance(const AttentionCase& attention) {
  return attention.kv_dtype == DType::kF32 ? 2e-5 : 2e-3;
}

// The tolerance for int8 rows of normally distributed numbers.
constexpr double kMostStep = 8.0 / 127.0;

TEST_P(RefAttention, MatchesTheDefinition) {
  const AttentionCase& attention = GetParam();
  const int layer = attention.layers_per_group - 1;
  for (int group = 0; group < static_cast<int>(attention.windows.size()); ++group) {
    auto built = BuildBatch(attention, 1);
    const NaiveAttention naive = ComputeNaiveAttention(built.get(), group, layer);
    const std::vector<float> out = RunAttention(backend_.get(), built.get(), group, layer);
    ExpectClose(out, naive.out, Tolerance(attention), 1e-5, attention.name);

    std::vector<float> keys, values;
    for (int t = 0; t < built->num_tokens(); ++t) {
      const int64_t place = built->view().write_places(group)[t];
      const PageId page = static_cast<PageId>(place / attention.page_tokens);
      const int token = static_cast<int>(place % attention.page_tokens);
      for (int h = 0; h < attention.kv_heads; ++h) {
        const auto key = ReadHead(built.get(), group, layer, page, token, h, 0);
        const auto value = ReadHead(built.get(), group, layer, page, token, h, 1);
        keys.insert(keys.end(), key.begin(), key.end());
        values.insert(values.end(), value.begin(), value.end());
      }
    }
    const bool int8 = attention.kv_dtype == DType::kI8;
    const double one_ulp = attention.kv_dtype == DType::kBF16 ? 0x1p-7 : 2e-6;
    ExpectClose(keys, naive.keys, int8 ? kMostStep : 1e-5, one_ulp, attention.name + " keys");
    ExpectSameBits(values, naive.values, attention.name + " values");
  }
}

TEST_P(RefAttention, RunsPagesAndChunksDoNotShow) {
  ExpectRunsDoNotShow(backend_.get(), GetParam(), 2);
  for (int page_tokens : {8, 16, 32, 64}) {
    ExpectPagesDoNotShow(backend_.get(), GetParam(), page_tokens, 3);
  }
  for (int chunk : {1, 7, 64}) ExpectChunksDoNotShow(backend_.get(), GetParam(), chunk, 4);
}

INSTANTIATE_TEST_SUITE_P(Grid, RefAttention, ::testing::ValuesIn(AttentionGrid()),
                         [](const auto& info) { return info.param.name; });

Tap MakeTap(TapKind kind, int segment, int row_begin, int num_rows, int layer_end, int block,
            int out_begin, int out_count) {
  Tap tap;
  tap.kind = kind;
  tap.segment = segment;
  tap.row_begin = row_begin;
  tap.num_rows = num_rows;
  tap.layer_begin = 0;
  tap.layer_end = layer_end;
  tap.block = block;
  tap.out_begin = out_begin;
  tap.out_count = out_count;
  return tap;
}

TEST(RefTaps, MatchTheDefinition) {
  AttentionCase attention;
  attention.name = "taps";
  attention.heads = 6;
  attention.windows = {0, 24};
  attention.segments = {{20, 6, 2, {{100, 50, 50, 0.8f, 0.9f}}}, {300, 5}};
  const auto backend = NewRefBackend();
  constexpr int kBlock = 10;
  for (int segment : {0, 1}) {
    for (int group : {0, 1}) {
      auto built = BuildBatch(attention, 6);
      const NaiveAttention naive = ComputeNaiveAttention(built.get(), group, 0);
      // The case has two layers, one per group. The second layer's part of a tap follows the
      // first's. The mass tap has room for the keys of the group with more keys.
      const int num_keys = static_cast<int>(
          std::max(NumKeys(built->view(), 0, segment), NumKeys(built->view(), 1, segment)));
      const int mass = CeilDiv(num_keys, kBlock);
      const int begin1 = 2 * mass;
      const int begin2 = begin1 + 2 * 2 * attention.heads;
      const std::vector<Tap> taps = {
          MakeTap(TapKind::kAttentionMass, segment, 1, 3, 2, kBlock, 0, 2 * mass),
          MakeTap(TapKind::kLogSumExp, segment, 2, 2, 2, 1, begin1, 2 * 2 * attention.heads),
          MakeTap(TapKind::kValueDeviation, segment, 0, 4, 2, 1, begin2, 2 * 4)};
      built->batch.taps = built->arena.AddCopy(taps);
      built->batch.num_tap_floats = begin2 + 2 * 4;
      std::vector<float> floats;
      RunAttention(backend.get(), built.get(), group, 0, &floats);

      const int first = built->view().segments()[segment].token_begin;
      std::vector<float> expected(floats.size(), 0.0f);
      double total = 0.0;
      for (int row = 1; row < 4; ++row) {
        const std::vector<double>& masses = naive.mass[first + row];
        for (size_t key = 0; key < masses.size(); ++key) {
          expected[group * mass + key / kBlock] += static_cast<float>(masses[key]);
          total += masses[key];
        }
      }
      EXPECT_NEAR(total, 3.0 * attention.heads, 1e-6);
      for (int row = 0; row < 2; ++row) {
        for (int h = 0; h < attention.heads; ++h) {
          expected[begin1 + (group * 2 + row) * attention.heads + h] =
              naive.lse[(first + 2 + row) * attention.heads + h];
        }
      }
      for (int row = 0; row < 4; ++row) {
        expected[begin2 + group * 4 + row] = static_cast<float>(naive.value_deviation[first + row]);
      }
      ExpectClose(floats, expected, 2e-5, 1e-5, "taps");
    }
  }
}

TEST(RefTaps, RecomputingTheSameValuesDeviatesByNothing) {
  const auto backend = NewRefBackend();
  for (const DType dtype : {DType::kBF16, DType::kI8}) {
    AttentionCase attention;
    attention.kv_dtype = dtype;
    attention.segments = {{5, 3}};
    auto built = BuildBatch(attention, 8);
    built->batch.taps = built->arena.AddCopy(
        std::vector<Tap>{MakeTap(TapKind::kValueDeviation, 0, 0, 3, 1, 1, 0, 3)});
    built->batch.num_tap_floats = 3;
    std::vector<float> taps;
    RunAttention(backend.get(), built.get(), 0, 0, &taps);
    for (float deviation : taps) EXPECT_GT(deviation, 0.0f);
    RunAttention(backend.get(), built.get(), 0, 0, &taps);
    EXPECT_EQ(taps, std::vector<float>(3, 0.0f));
  }
}

// A stream whose keys were rotated for other positions (pos_delta) gives the same result as keys
// rotated for their own positions.
TEST(RefAttentionStreams, PosDeltaEqualsRotatingTheKeys) {
  constexpr int kDelta = 60;
  AttentionCase attention;
  attention.name = "delta";
  attention.head_dim = 64;
  attention.segments = {{10, 3, 1, {{40, 100, kDelta}}}};
  const auto backend = NewRefBackend();
  auto by_delta = BuildBatch(attention, 11);
  auto rotated = BuildBatch(attention, 11);

  std::vector<KvRun> runs(rotated->view().runs(),
                          rotated->view().runs() + rotated->batch.runs.count);
  const KvRun reused = runs[0];
  ASSERT_EQ(reused.pos_delta, kDelta);
  runs[0].pos_delta = 0;
  std::vector<PageOp> ops;
  for (int i = 0; i < reused.num_pages; ++i) {
    PageOp op;
    op.kind = PageOpKind::kRopeShift;
    op.dst = rotated->view().pages()[reused.page_begin + i];
    op.num_tokens = attention.page_tokens;
    op.layer_end = 1;
    op.delta = kDelta;
    ops.push_back(op);
  }
  rotated->batch.runs = rotated->arena.AddCopy(runs);
  rotated->batch.page_ops = rotated->arena.AddCopy(ops);
  ApplyArgs args;
  args.batch = rotated->view();
  args.layout = &rotated->layout;
  args.pool = rotated->pool();
  args.ropes = {{&rotated->rope}};
  backend->Apply(args);

  const std::vector<float> a = RunAttention(backend.get(), by_delta.get());
  const std::vector<float> b = RunAttention(backend.get(), rotated.get());
  ExpectClose(a, b, 2e-5, 1e-5, "delta");
}

TEST(RefAttentionStreams, ARowThatSeesNothingGivesZeros) {
  AttentionCase attention;
  attention.segments = {{0, 2}};
  auto built = BuildBatch(attention, 12);
  std::vector<Range> no_runs = {{0, 0}};
  built->batch.run_ranges = built->arena.AddCopy(no_runs);
  built->batch.taps = built->arena.AddCopy(
      std::vector<Tap>{MakeTap(TapKind::kLogSumExp, 0, 0, 2, 1, 1, 0, 2 * attention.heads)});
  built->batch.num_tap_floats = 2 * attention.heads;
  const auto backend = NewRefBackend();
  std::vector<float> taps;
  const std::vector<float> out = RunAttention(backend.get(), built.get(), 0, 0, &taps);
  EXPECT_EQ(out, std::vector<float>(out.size(), 0.0f));
  EXPECT_EQ(taps, std::vector<float>(taps.size(), -std::numeric_limits<float>::infinity()));
}

// Attention blocks start at multiples of kAttentionBlock. Checks one head without rotation,
// computed block by block in fp32.
TEST(RefAttentionStreams, BlocksAreAbsolute) {
  constexpr int kBegin = 100;  // the stream starts inside block 0
  constexpr int kCount = 500;
  constexpr int kDim = 16;
  AttentionCase attention;
  attention.heads = attention.kv_heads = 1;
  attention.head_dim = kDim;
  attention.rotary_dim = 0;
  attention.segments = {{0, 1, 1, {{kCount, kBegin, 0, 0.5f, 1.0f}}}};
  auto built = BuildBatch(attention, 14);
  const KvRun run = built->view().runs()[0];
  const float scale = built->Args(0, 0, nullptr, nullptr).scale;

  std::vector<float> out;
  float merged_max = 0.0f;
  float merged_sum = 0.0f;
  for (int block = 0; block * kAttentionBlock < kBegin + kCount; ++block) {
    std::vector<float> scores;
    std::vector<std::vector<float>> values;
    const int end = std::min((block + 1) * kAttentionBlock, kBegin + kCount);
    for (int pos = std::max(block * kAttentionBlock, kBegin); pos < end; ++pos) {
      const int at = run.first + pos - kBegin;
      const PageId page = built->view().pages()[run.page_begin + at / attention.page_tokens];
      const int token = at % attention.page_tokens;
      const std::vector<float> key = ReadHead(built.get(), 0, 0, page, token, 0, 0);
      float dot = 0.0f;
      for (int d = 0; d < kDim; ++d) dot += built->qkv[d] * key[d];
      scores.push_back(dot * scale / 0.5f);
      values.push_back(ReadHead(built.get(), 0, 0, page, token, 0, 1));
    }
    const float max = *std::max_element(scores.begin(), scores.end());
    float sum = 0.0f;
    std::vector<float> block_out(kDim, 0.0f);
    for (size_t i = 0; i < scores.size(); ++i) {
      const float weight = std::exp(scores[i] - max);
      sum += weight;
      for (int d = 0; d < kDim; ++d) block_out[d] += weight * values[i][d];
    }
    if (block == 0) {
      out = block_out;
      merged_max = max;
      merged_sum = sum;
      continue;
    }
    const float new_max = std::max(merged_max, max);
    const float a = std::exp(merged_max - new_max);
    const float b = std::exp(max - new_max);
    merged_max = new_max;
    merged_sum = merged_sum * a + sum * b;
    for (int d = 0; d < kDim; ++d) out[d] = out[d] * a + block_out[d] * b;
  }
  for (float& value : out) value /= merged_sum;

  // Removes the run with the row's own key, which this test does not need.
  built->batch.run_ranges = built->arena.AddCopy(std::vector<Range>{{0, 1}});
  ExpectSameBits(RunAttention(NewRefBackend().get(), built.get()), out, "blocks");
}

TEST(RefAttentionStreams, NullPageWritesHarmNothing) {
  AttentionCase attention;
  attention.segments = {{20, 1}, {0, 1}};
  auto built = BuildBatch(attention, 13);
  const std::vector<uint64_t> before = built->pool_words;
  std::vector<int64_t> places = {3, 0};
  built->batch.write_places = built->arena.AddCopy(places);
  RunAttention(NewRefBackend().get(), built.get());
  built->pool_words.erase(built->pool_words.begin(),
                          built->pool_words.begin() + built->layout.page_bytes() / 8);
  EXPECT_EQ(built->pool_words,
            std::vector<uint64_t>(before.begin() + built->layout.page_bytes() / 8, before.end()));
}

TEST(AttentionPlan, StreamsAndPieces) {
  BatchArena arena;
  StepBatch batch;
  batch.tokens = arena.AddCopy(std::vector<TokenId>{0});
  batch.segments = arena.AddCopy(std::vector<Segment>{{0, 0, 1, -1}});
  batch.pages = arena.AddCopy(std::vector<PageId>{7, 3, 9});
  std::vector<KvRun> runs(5);
  runs[0] = {0, 1, 2, 3, 10};
  runs[1] = {1, 1, 0, 0, 77};  // an empty run
  runs[2] = {1, 2, 5, 6, 13};
  runs[3] = {0, 1, 0, 4, 19, 5};  // another pos_delta
  runs[4] = {0, 1, 0, 4, 19, 5};  // starts at runs[3]'s position, so it is a new stream
  batch.runs = arena.AddCopy(runs);
  batch.run_ranges = arena.AddCopy(std::vector<Range>{{0, 5}});
  const BatchView view{&batch, arena.base()};
  std::vector<KvStream> streams;
  ForEachStream(view, 0, 0, [&](const KvStream& stream) { streams.push_back(stream); });
  ASSERT_EQ(streams.size(), 3u);
  EXPECT_EQ(streams[0].pos_begin, 10);
  EXPECT_EQ(streams[0].pos_end, 19);
  EXPECT_EQ(streams[1].key_begin, 9);
  EXPECT_EQ(streams[2].key_begin, 13);
  EXPECT_EQ(NumKeys(view, 0, 0), 17);

  std::vector<std::vector<int>> pieces;
  ForEachPiece(view, streams[0], 8, 11, 18, [&](const KeyPiece& piece) {
    pieces.push_back({piece.page, piece.token, piece.count, piece.pos});
  });
  EXPECT_EQ(pieces, (std::vector<std::vector<int>>{{7, 3, 2, 11}, {3, 5, 3, 13}, {9, 0, 2, 16}}));

  // Runs with consecutive positions are two streams if pos_delta, temperature or scale differs.
  for (float KvRun::*field : {&KvRun::temperature, &KvRun::scale}) {
    std::vector<KvRun> pair(2);
    pair[0] = {0, 1, 0, 4, 0};
    pair[1] = {1, 1, 0, 4, 4};
    batch.run_ranges = arena.AddCopy(std::vector<Range>{{0, 2}});
    int num_streams[2] = {};
    for (int differ : {0, 1}) {
      pair[1].*field = differ ? 0.5f : 1.0f;
      batch.runs = arena.AddCopy(pair);
      ForEachStream({&batch, arena.base()}, 0, 0, [&](const KvStream&) { ++num_streams[differ]; });
    }
    EXPECT_EQ(num_streams[0], 1);
    EXPECT_EQ(num_streams[1], 2);
  }

  EXPECT_EQ(VisibleKeys(streams[0], 0, 15).end, 16);
  EXPECT_EQ(VisibleKeys(streams[0], 4, 15).begin, 12);
  EXPECT_EQ(VisibleKeys(streams[0], 4, 11).begin, 10);
  EXPECT_LE(VisibleKeys(streams[0], 4, 40).end, VisibleKeys(streams[0], 4, 40).begin);
}

}  // namespace
}  // namespace tessera::testing
