// Tests which blocks SharedPrefixes finds, and that AttentionWork makes shared tasks of them.
#include "kernels/cpu/shared_prefix.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <vector>

#include "kernels/cpu/attention_work.h"
#include "kernels/cpu/work_plan.h"
#include "tests/lib/op_fixtures.h"

namespace tessera::testing {
namespace {

using cpu::AttentionTask;
using cpu::AttentionTile;
using cpu::AttentionWork;
using cpu::PrefixCandidate;
using cpu::SharedBlocks;
using cpu::SharedPrefixes;

struct Group {
  int block_begin = 0;
  int block_end = 0;
  std::vector<int32_t> members;
};

class SharedPrefixTest : public ::testing::Test {
 protected:
  // Finds the shared blocks, with all whole blocks of every segment as candidates.
  std::vector<Group> Find(const BuiltBatch& built) {
    streams_.clear();
    std::vector<PrefixCandidate> candidates;
    for (int s = 0; s < built.view().num_segments(); ++s) {
      ForEachStream(built.view(), 0, s, [&](const KvStream& stream) {
        streams_.push_back(std::make_unique<KvStream>(stream));
        candidates.push_back({s, streams_.back().get(), stream.pos_end / kAttentionBlock});
      });
    }
    std::vector<Group> found;
    for (const SharedBlocks& shared :
         prefixes_.Find(built.view(), built.attention.page_tokens, candidates)) {
      const auto members = prefixes_.members(shared);
      found.push_back({shared.block_begin, shared.block_end, {members.begin(), members.end()}});
    }
    std::sort(found.begin(), found.end(), [](const Group& a, const Group& b) {
      return a.block_begin != b.block_begin ? a.block_begin < b.block_begin : a.members < b.members;
    });
    return found;
  }

  std::vector<std::unique_ptr<KvStream>> streams_;
  SharedPrefixes prefixes_;
};

void ExpectShared(const Group& shared, int begin, int end, std::vector<int32_t> members) {
  EXPECT_EQ(shared.block_begin, begin);
  EXPECT_EQ(shared.block_end, end);
  EXPECT_EQ(shared.members, members);
}

TEST_F(SharedPrefixTest, BranchesOfATree) {
  const auto built = BuildSharingBatch(DType::kF32, 1);
  const std::vector<Group> found = Find(*built);
  ASSERT_EQ(found.size(), 4u);
  ExpectShared(found[0], 0, 1, {0, 1, 2, 3, 4});
  ExpectShared(found[1], 1, 2, {0, 1, 2, 3});
  ExpectShared(found[2], 2, 3, {0, 1, 2});
  ExpectShared(found[3], 3, 4, {0, 1});
}

TEST_F(SharedPrefixTest, TwoTreesAndABlockThatDiffersInOnePage) {
  AttentionCase attention;
  attention.segments = {{600, 1}, {600, 1}, {600, 1}, {600, 1}};
  const auto built = BuildBatch(attention, 1);
  SharePages(built.get(), 2, 0, 32);
  SharePages(built.get(), 3, 1, 31);  // two blocks are 32 pages
  const std::vector<Group> found = Find(*built);
  ASSERT_EQ(found.size(), 2u);
  ExpectShared(found[0], 0, 2, {0, 2});
  ExpectShared(found[1], 0, 1, {1, 3});
}

// The keys of a block enter a row's result through pos_delta, temperature and scale too.
TEST_F(SharedPrefixTest, StreamsThatUseTheirKeysInAnotherWayShareNothing) {
  AttentionCase attention;
  attention.segments = {{600, 1}, {600, 1}};
  const auto expect_groups = [&](size_t num_groups, const auto& change) {
    const auto built = BuildBatch(attention, 1);
    SharePages(built.get(), 1, 0, 32);
    change(&built->arena.data(built->batch.runs)[built->view().run_range(0, 1).begin]);
    EXPECT_EQ(Find(*built).size(), num_groups);
  };
  expect_groups(1, [](KvRun*) {});
  expect_groups(0, [](KvRun* run) { run->scale = 2.0f; });
  expect_groups(0, [](KvRun* run) { run->temperature = 2.0f; });
  expect_groups(0, [](KvRun* run) { run->pos_delta = 1; });
}

// Each segment has a block of 32 runs with 8 tokens, in half of a page each.
TEST_F(SharedPrefixTest, OtherTokensOfTheSamePagesAreNotShared) {
  AttentionCase attention;
  attention.segments = {{600, 1, 32}, {600, 1, 32}};
  for (const int first : {0, 8}) {  // of segment 1
    const auto built = BuildBatch(attention, 1);
    KvRun* const runs = built->arena.data(built->batch.runs);
    for (const int segment : {0, 1}) {
      const Range range = built->view().run_range(0, segment);
      ASSERT_EQ(range.count, 32);
      for (int i = 0; i < 32; ++i) {
        KvRun& run = runs[range.begin + i];
        run = runs[built->view().run_range(0, 0).begin];  // the pages of segment 0
        run.page_begin += i;
        run.num_pages = 1;
        run.first = segment == 1 ? first : 0;
        run.count = 8;
        run.pos_begin = 8 * i;
      }
    }
    EXPECT_EQ(Find(*built).size(), first == 0 ? 1u : 0u);
  }
}

TEST_F(SharedPrefixTest, NothingInCommon) {
  AttentionCase attention;
  attention.segments = {{600, 1}, {600, 1}, {3, 1}};
  EXPECT_TRUE(Find(*BuildBatch(attention, 1)).empty());
}

// Every block of every tile belongs to exactly one task, however few partials may be kept.
TEST_F(SharedPrefixTest, TasksCoverEachBlockOnce) {
  const auto built = BuildSharingBatch(DType::kBF16, 3);
  const int heads_per_kv = built->attention.heads / built->attention.kv_heads;
  const StepShape shape = built->shape();
  constexpr int64_t kPlanned = -1;  // what the step's plan sets aside
  for (const auto& [members, limit] : std::vector<std::pair<int, int64_t>>{
           {1, kPlanned}, {2, kPlanned}, {5, kPlanned}, {1, 0}, {5, 0}, {1, 40}, {5, 600}}) {
    const int64_t partial_bytes =
        cpu::PartialFloats(built->attention.head_dim) * static_cast<int64_t>(sizeof(float));
    const int64_t planned_bytes =
        cpu::PlanWork(shape, cpu::BoundsOf(built->view()), members).Bytes(WorkPart::kPartials);
    const int64_t max_partials = limit == kPlanned ? planned_bytes / partial_bytes : limit;
    AttentionWork work;
    work.Build(built->view(), 0, built->layout.groups[0], heads_per_kv, members, max_partials);
    EXPECT_LE(work.num_partials(), max_partials);
    std::vector<std::map<int, int>> times(work.tiles().size());
    std::vector<int> pieces(work.tiles().size(), 0);
    int num_shared = 0;
    for (const AttentionTask& task : work.tasks()) {
      num_shared += task.shared >= 0 ? 1 : 0;
      const absl::Span<const int32_t> alone(&task.tile, 1);
      for (const int32_t tile : task.shared >= 0 ? work.shared_tiles(task.shared) : alone) {
        ++pieces[static_cast<size_t>(tile)];
        for (int b = task.block_begin; b < task.block_end; ++b) {
          ++times[static_cast<size_t>(tile)][b];
        }
      }
    }
    // Four groups of sharing segments times two KV heads.
    if (limit == kPlanned) {
      EXPECT_GE(num_shared, 8);
    } else if (limit == 0) {
      EXPECT_EQ(num_shared, 0);
    }
    for (size_t i = 0; i < work.tiles().size(); ++i) {
      const AttentionTile& tile = work.tiles()[i];
      EXPECT_EQ(static_cast<int>(times[i].size()), tile.num_blocks);
      for (const auto& [block, count] : times[i]) EXPECT_EQ(count, 1) << block;
      if (tile.cut >= 0) {
        EXPECT_EQ(pieces[i], tile.num_pieces);
      }
    }
  }
}

}  // namespace
}  // namespace tessera::testing
