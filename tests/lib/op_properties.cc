#include "tests/lib/op_properties.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "tests/lib/naive_ops.h"

namespace tessera::testing {
namespace {

constexpr int kNumCutTries = 3;

// Cuts every run into up to four runs, some of them empty.
void CutRuns(BuiltBatch* built, uint64_t seed) {
  std::mt19937_64 random(seed);
  const BatchView view = built->view();
  const int page_tokens = built->layout.page_tokens();
  std::vector<Range> ranges;
  std::vector<KvRun> runs;
  for (uint32_t i = 0; i < built->batch.run_ranges.count; ++i) {
    const Range old = view.data(built->batch.run_ranges)[i];
    const int32_t begin = static_cast<int32_t>(runs.size());
    for (int32_t r = old.begin; r < old.begin + old.count; ++r) {
      const KvRun& run = view.runs()[r];
      std::vector<int> cuts = {0, run.count};
      for (int c = 0; c < kNumCutTries; ++c) {
        cuts.push_back(static_cast<int>(random() % (run.count + 1)));
      }
      std::sort(cuts.begin(), cuts.end());
      for (size_t c = 0; c + 1 < cuts.size(); ++c) {
        const int at = run.first + cuts[c];
        KvRun part = run;
        part.page_begin = run.page_begin + at / page_tokens;
        part.first = at % page_tokens;
        part.count = cuts[c + 1] - cuts[c];
        part.num_pages = std::min(CeilDiv(part.first + part.count, page_tokens),
                                  run.page_begin + run.num_pages - part.page_begin);
        part.pos_begin = run.pos_begin + cuts[c];
        runs.push_back(part);
      }
    }
    ranges.push_back({begin, static_cast<int32_t>(runs.size()) - begin});
  }
  built->batch.run_ranges = built->arena.AddCopy(ranges);
  built->batch.runs = built->arena.AddCopy(runs);
}

// Copies the KV of one token, in all layers and heads of a group, to a pool of another page size.
void CopyToken(BuiltBatch* from, int64_t from_slot, BuiltBatch* to, int64_t to_slot, int group) {
  const GroupLayout& a = from->layout.groups[group];
  const GroupLayout& b = to->layout.groups[group];
  for (int layer = 0; layer < a.num_layers; ++layer) {
    for (int head = 0; head < a.kv_heads; ++head) {
      const char* src = from->pool().Page(static_cast<PageId>(from_slot / a.page_tokens)) +
                        a.HeadOffset(layer, head);
      char* dst =
          to->pool().Page(static_cast<PageId>(to_slot / b.page_tokens)) + b.HeadOffset(layer, head);
      for (size_t i = 0; i < a.token_arrays().size(); ++i) {
        const GroupLayout::TokenArray from_array = a.token_arrays()[i];
        const GroupLayout::TokenArray to_array = b.token_arrays()[i];
        const char* src_element =
            src + from_array.offset + from_slot % a.page_tokens * from_array.element_bytes;
        char* dst_element =
            dst + to_array.offset + to_slot % b.page_tokens * to_array.element_bytes;
        std::memcpy(dst_element, src_element, to_array.element_bytes);
        std::memcpy(dst_element + b.value_offset(), src_element + a.value_offset(),
                    to_array.element_bytes);
      }
    }
  }
}

// Returns the same batch and keys with pages of page_tokens tokens. Every run starts at a random
// token of its first page.
std::unique_ptr<BuiltBatch> Repage(BuiltBatch* old, int page_tokens, uint64_t seed) {
  std::mt19937_64 random(seed);
  auto built = std::make_unique<BuiltBatch>(*old);
  built->attention.page_tokens = page_tokens;
  for (GroupLayout& group : built->layout.groups) group.page_tokens = page_tokens;
  built->layout.slabs_per_page = 1;
  built->layout.slab_bytes = built->layout.groups[0].page_bytes();

  const BatchView view = old->view();
  const int old_page_tokens = old->layout.page_tokens();
  std::vector<KvRun> runs;
  std::vector<PageId> pages;
  PageId num_pages = 1;
  for (uint32_t r = 0; r < old->batch.runs.count; ++r) {
    KvRun run = view.runs()[r];
    run.page_begin = static_cast<int32_t>(pages.size());
    run.first = static_cast<int32_t>(random() % page_tokens);
    run.num_pages = CeilDiv(run.first + run.count, page_tokens);
    for (int i = 0; i < run.num_pages; ++i) pages.push_back(num_pages++);
    runs.push_back(run);
  }
  built->num_slabs = num_pages;
  built->pool_words.assign(built->num_slabs * built->layout.slab_bytes / 8, 0);

  const int num_segments = view.num_segments();
  std::vector<int64_t> write_places(
      view.data(old->batch.write_places),
      view.data(old->batch.write_places) + old->batch.write_places.count);
  for (int g = 0; g < old->layout.num_groups(); ++g) {
    std::map<int64_t, int64_t> moved;
    for (int s = 0; s < num_segments; ++s) {
      const Range range = view.run_range(g, s);
      for (int r = range.begin; r < range.begin + range.count; ++r) {
        const KvRun& from = view.runs()[r];
        for (int i = 0; i < from.count; ++i) {
          const int at = from.first + i;
          const int64_t page = view.pages()[from.page_begin + at / old_page_tokens];
          const int64_t old_slot = page * old_page_tokens + at % old_page_tokens;
          const int to = runs[r].first + i;
          const int64_t new_page = pages[runs[r].page_begin + to / page_tokens];
          moved[old_slot] = new_page * page_tokens + to % page_tokens;
          CopyToken(old, old_slot, built.get(), moved[old_slot], g);
        }
      }
    }
    for (int t = 0; t < old->num_tokens(); ++t) {
      int64_t& place = write_places[static_cast<size_t>(g) * old->num_tokens() + t];
      place = moved.at(place);
    }
  }
  built->batch.runs = built->arena.AddCopy(runs);
  built->batch.pages = built->arena.AddCopy(pages);
  built->batch.write_places = built->arena.AddCopy(write_places);
  return built;
}

// Runs attention of rows [row_begin, row_begin + count) of one segment, alone in a batch whose runs
// end with the last of these rows.
std::vector<float> RunRows(Backend* backend, BuiltBatch* built, int segment, int row_begin,
                           int count, int group, int layer_in_group) {
  const BatchView view = built->view();
  const int first = view.segments()[segment].token_begin + row_begin;
  const int32_t end = view.positions()[first + count - 1] + 1;
  BatchArena arena;
  StepBatch batch = built->batch;
  std::vector<KvRun> runs;
  std::vector<Range> ranges;
  std::vector<int64_t> write_places;
  for (int g = 0; g < batch.num_groups; ++g) {
    const Range range = view.run_range(g, segment);
    ranges.push_back({static_cast<int32_t>(runs.size()), range.count});
    for (int r = range.begin; r < range.begin + range.count; ++r) {
      runs.push_back(view.runs()[r]);
      runs.back().count = std::clamp(end - runs.back().pos_begin, 0, runs.back().count);
    }
    const int64_t* places = view.write_places(g) + first;
    write_places.insert(write_places.end(), places, places + count);
  }
  const auto rows = [&](auto* begin) { return std::vector(begin + first, begin + first + count); };
  batch.tokens = arena.AddCopy(rows(view.tokens()));
  batch.positions = arena.AddCopy(rows(view.positions()));
  batch.write_places = arena.AddCopy(write_places);
  batch.segments = arena.AddCopy(std::vector<Segment>{{0, 0, count, -1}});
  batch.run_ranges = arena.AddCopy(ranges);
  batch.runs = arena.AddCopy(runs);
  batch.pages =
      arena.AddCopy(std::vector<PageId>(view.pages(), view.pages() + built->batch.pages.count));

  const float* qkv_begin = built->qkv.data() + static_cast<size_t>(first) * built->qkv_cols();
  std::vector<float> qkv(qkv_begin, qkv_begin + static_cast<size_t>(count) * built->qkv_cols());
  std::vector<float> out(static_cast<size_t>(count) * built->out_cols());
  AttentionArgs args = built->Args(group, layer_in_group, qkv.data(), out.data());
  args.batch = {&batch, arena.base()};
  args.qkv.rows = args.out.rows = count;
  BeginStep(backend, args.batch, built->shape());
  backend->Attention(args);
  return out;
}

}  // namespace

void ExpectRunsDoNotShow(Backend* backend, const AttentionCase& attention, uint64_t seed) {
  for (int group = 0; group < static_cast<int>(attention.windows.size()); ++group) {
    const int layer = attention.layers_per_group - 1;
    auto whole = BuildBatch(attention, seed);
    auto cut = BuildBatch(attention, seed);
    CutRuns(cut.get(), seed);
    ExpectSameBits(RunAttention(backend, cut.get(), group, layer),
                   RunAttention(backend, whole.get(), group, layer), attention.name + " cut");
  }
}

void ExpectPagesDoNotShow(Backend* backend, const AttentionCase& attention, int page_tokens,
                          uint64_t seed) {
  for (int group = 0; group < static_cast<int>(attention.windows.size()); ++group) {
    const int layer = attention.layers_per_group - 1;
    auto old = BuildBatch(attention, seed);
    auto repaged = Repage(old.get(), page_tokens, seed);
    ExpectSameBits(RunAttention(backend, repaged.get(), group, layer),
                   RunAttention(backend, old.get(), group, layer), attention.name + " repaged");
  }
}

void ExpectChunksDoNotShow(Backend* backend, const AttentionCase& attention, int chunk,
                           uint64_t seed) {
  for (int group = 0; group < static_cast<int>(attention.windows.size()); ++group) {
    const int layer = attention.layers_per_group - 1;
    auto whole = BuildBatch(attention, seed);
    auto chunked = BuildBatch(attention, seed);
    const std::vector<float> expected = RunAttention(backend, whole.get(), group, layer);
    std::vector<float> actual;
    for (size_t s = 0; s < attention.segments.size(); ++s) {
      const int num_tokens = attention.segments[s].num_tokens;
      for (int begin = 0; begin < num_tokens; begin += chunk) {
        const std::vector<float> rows = RunRows(backend, chunked.get(), static_cast<int>(s), begin,
                                                std::min(chunk, num_tokens - begin), group, layer);
        actual.insert(actual.end(), rows.begin(), rows.end());
      }
    }
    ExpectSameBits(actual, expected, attention.name + " in chunks of " + std::to_string(chunk));
    EXPECT_EQ(chunked->pool_words, whole->pool_words) << attention.name;
  }
}

void ExpectRowsAreIndependent(Backend* backend, const LinearCase& linear, uint64_t seed) {
  const BuiltLinear built = BuildLinear(linear, seed);
  const std::vector<float> together = RunLinear(backend, built);
  std::vector<float> alone;
  for (int64_t row = 0; row < linear.rows; ++row) {
    const std::vector<float> out = RunLinear(backend, built, row, 1);
    alone.insert(alone.end(), out.begin(), out.end());
  }
  ExpectSameBits(alone, together, linear.name());
}

}  // namespace tessera::testing
