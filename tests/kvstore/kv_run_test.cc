// Runs of KV: the bytes are the rows in the stated order, whatever the pages hold, and come back
// bitwise.
#include "kvstore/kv_run.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "kernels/base/log.h"
#include "kvstore/page_hash.h"
#include "tests/kvstore/kv_test_util.h"

namespace tessera::testing {
namespace {

// Page images of all groups of a layout, in memory of their own.
class Images {
 public:
  Images(const PageLayout& layout, int64_t num_tokens) : pages_(layout.groups.size()) {
    for (size_t g = 0; g < pages_.size(); ++g) {
      const GroupLayout& group = layout.groups[g];
      pages_[g].resize(static_cast<size_t>(CeilDiv<int64_t>(num_tokens, group.page_tokens)));
      for (std::string& page : pages_[g]) page.resize(static_cast<size_t>(group.page_bytes()));
    }
  }
  void Fill(std::mt19937* rng) {
    for (auto& group : pages_) {
      for (std::string& page : group) {
        for (char& byte : page) byte = static_cast<char>((*rng)());
      }
    }
  }
  template <class Byte>
  std::vector<std::vector<Byte*>> Pointers() {
    std::vector<std::vector<Byte*>> pointers(pages_.size());
    for (size_t g = 0; g < pages_.size(); ++g) {
      for (std::string& page : pages_[g]) pointers[g].push_back(page.data());
    }
    return pointers;
  }
  // A token's element of an array that lies `offset` bytes after the start of its page.
  char* Element(const GroupLayout& group, size_t g, int64_t token, int64_t offset, int64_t bytes) {
    return pages_[g][static_cast<size_t>(token / group.page_tokens)].data() + offset +
           token % group.page_tokens * bytes;
  }
  friend bool operator==(const Images& a, const Images& b) { return a.pages_ == b.pages_; }

 private:
  std::vector<std::vector<std::string>> pages_;  // [groups][pages]
};

// Exports a run one row at a time, in the order that the comment of kv_run.h states.
std::string NaiveExport(const PageLayout& layout, Images* images, const RunPlace& place) {
  std::string run;
  for (size_t g = 0; g < layout.groups.size(); ++g) {
    const GroupLayout& group = layout.groups[g];
    for (int layer = 0; layer < group.num_layers - group.num_padding_layers; ++layer) {
      for (int kv = 0; kv < 2; ++kv) {
        for (int head = 0; head < group.kv_heads; ++head) {
          const int64_t rows = group.HeadOffset(layer, head) + kv * group.value_offset();
          const int64_t scales = rows + group.page_tokens * group.row_bytes();
          for (int64_t t = place.first; t < place.first + place.count; ++t) {
            run.append(images->Element(group, g, t, rows, group.row_bytes()),
                       static_cast<size_t>(group.row_bytes()));
          }
          for (int64_t t = place.first; group.quantized() && t < place.first + place.count; ++t) {
            run.append(images->Element(group, g, t, scales, 4), 4);
          }
        }
      }
    }
  }
  return run;
}

PageLayout RandomLayout(std::mt19937* rng) {
  PageLayout layout;
  const auto pick = [rng](int32_t below) { return static_cast<int32_t>((*rng)() % below); };
  const DType dtypes[] = {DType::kF32, DType::kBF16, DType::kI8};
  const int32_t num_groups = 1 + pick(3);
  GroupLayout group;
  group.num_layers = 1 + pick(3);
  group.kv_heads = 1 + pick(3);
  group.head_dim = 1 + pick(20);
  group.dtype = dtypes[pick(3)];
  for (int32_t g = 0; g < num_groups; ++g) {
    group.window = pick(2) * (1 + pick(600));
    const bool padded = g > 0 && g + 1 == num_groups;
    group.num_padding_layers = padded ? pick(group.num_layers) : 0;
    layout.groups.push_back(group);
  }
  return layout;
}

PageLayout WithPageTokens(PageLayout layout, int32_t page_tokens) {
  for (GroupLayout& group : layout.groups) group.page_tokens = page_tokens;
  return layout;
}

TEST(KvRunTest, BytesAreRowsInTheStatedOrderWhateverPagesHold) {
  std::mt19937 rng(7);
  const int32_t page_sizes[] = {1, 8, 12, 16, 40, 64};
  for (int round = 0; round < 200; ++round) {
    const PageLayout base = RandomLayout(&rng);
    const PageLayout from = WithPageTokens(base, page_sizes[rng() % 6]);
    const PageLayout to = WithPageTokens(base, page_sizes[rng() % 6]);
    const auto count = static_cast<int64_t>(rng() % 2 == 0 ? kRunTokens : 1 + rng() % kRunTokens);
    const RunPlace source{static_cast<int64_t>(rng() % 100), count};
    const RunPlace target{static_cast<int64_t>(rng() % 100), count};
    Images images(from, source.first + count + static_cast<int64_t>(rng() % 70));
    images.Fill(&rng);
    const std::string run = ExportRun(from, images.Pointers<const char>(), source);
    ASSERT_EQ(static_cast<int64_t>(run.size()), RunBytes(from, count));
    ASSERT_EQ(run, NaiveExport(from, &images, source)) << round;

    Images written(to, target.first + count + 70);
    written.Fill(&rng);
    ASSERT_TRUE(ImportRun(to, run, written.Pointers<char>(), target).ok());
    ASSERT_EQ(NaiveExport(to, &written, target), run) << round;
  }
}

// What lies around the run in the pages belongs to others: tokens before and after it, padding.
TEST(KvRunTest, AnImportTouchesNothingElse) {
  std::mt19937 rng(8);
  for (int round = 0; round < 50; ++round) {
    const PageLayout layout = WithPageTokens(RandomLayout(&rng), 16);
    const RunPlace place{static_cast<int64_t>(rng() % 40), 1 + static_cast<int64_t>(rng() % 60)};
    Images images(layout, 112);
    images.Fill(&rng);
    const std::string own = ExportRun(layout, images.Pointers<const char>(), place);
    std::string other = own;
    for (char& byte : other) byte = static_cast<char>(~byte);
    Images changed = images;
    ASSERT_TRUE(ImportRun(layout, other, changed.Pointers<char>(), place).ok());
    EXPECT_FALSE(changed == images);
    ASSERT_TRUE(ImportRun(layout, own, changed.Pointers<char>(), place).ok());
    EXPECT_TRUE(changed == images) << round;
  }
}

TEST(KvRunTest, BytesOfTheWrongLengthAreRefusedAndNothingIsWritten) {
  std::mt19937 rng(9);
  const PageLayout layout = MakeLayout(16, {0, 512});
  Images images(layout, 64);
  images.Fill(&rng);
  const Images before = images;
  const auto expected = static_cast<size_t>(RunBytes(layout, 20));
  for (const size_t num_bytes : {size_t{0}, expected - 1, expected + 1}) {
    const absl::Status status =
        ImportRun(layout, std::string(num_bytes, 'x'), images.Pointers<char>(), {3, 20});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << num_bytes;
    EXPECT_NE(status.message().find("drop it"), std::string::npos) << status;
  }
  EXPECT_TRUE(images == before);
}

TEST(KvRunDeathTest, PagesReachTheEndOfTheRun) {
  const PageLayout layout = MakeLayout(16, {0});
  Images images(layout, 32);
  ASSERT_TRUE(InitLogging("error"));  // to stderr, where death tests look
  EXPECT_DEATH(ExportRun(layout, images.Pointers<const char>(), {1, 32}), "CHECK failed");
  std::vector<std::vector<const char*>> released = images.Pointers<const char>();
  released[0][0] = nullptr;
  EXPECT_DEATH(ExportRun(layout, released, {1, 20}), "token 1 has no page");
}

}  // namespace
}  // namespace tessera::testing
