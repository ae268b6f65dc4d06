// Tests of the cache of packed weights: a second load takes the entries and computes the same bits;
// entries of changed content, damaged entries and entries of another format are never taken; the
// folder stays within its size limit.
#include "kernels/model/checkpoint/pack_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "kernels/model/checkpoint/weights.h"
#include "tests/lib/raw_checkpoint.h"
#include "tests/lib/tiny_model.h"

namespace tessera::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr char kModel[] = "llama2";  // 3 layers, untied embeddings
constexpr int64_t kNumWeights = 2 + 3 * 4;

class PackCacheTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (CpuBackends().empty()) GTEST_SKIP() << "no AVX2 here";
    isa_ = CpuBackends().front();
    root_ = absl::StrCat(::testing::TempDir(), "/pack_cache_", getpid(), "_",
                         ::testing::UnitTest::GetInstance()->current_test_info()->name());
    model_dir_ = root_ + "/model";
    options_.dir = root_ + "/cache";
    fs::create_directories(model_dir_);
    fs::copy_file(GoldenModelDir(kModel) + "/config.json", model_dir_ + "/config.json");
    tensors_ = ReadRawTensors(GoldenModelDir(kModel));
    WriteRawTensors(model_dir_, tensors_);
  }
  void TearDown() override { fs::remove_all(root_); }

  struct Loaded {
    PackCacheStats stats;
    std::vector<float> logits;
  };
  Loaded Load(WeightDtype dtype = WeightDtype::kI4, bool cached = true) {
    TestBackend device(isa_, 2);
    std::unique_ptr<PackCache> cache;
    if (cached) {
      auto opened = PackCache::Open(options_);
      EXPECT_TRUE(opened.ok()) << opened.status();
      cache = *std::move(opened);
    }
    TinyOptions options;
    options.dtype = dtype;
    options.pack_cache = cache.get();
    TinyModel model(model_dir_, device.backend.get(), options);
    return {cached ? cache->stats() : PackCacheStats(),
            model.AllLogits(LoadGoldenModel(kModel).prompt_ids, 512)};
  }

  std::vector<fs::path> Entries() const {
    std::vector<fs::path> paths;
    for (const auto& entry : fs::directory_iterator(options_.dir)) paths.push_back(entry.path());
    std::sort(paths.begin(), paths.end());
    return paths;
  }
  int64_t EntryBytes() const {
    int64_t bytes = 0;
    for (const fs::path& path : Entries()) bytes += static_cast<int64_t>(fs::file_size(path));
    return bytes;
  }

  std::string isa_;
  std::string root_;
  std::string model_dir_;
  PackCacheOptions options_;
  RawTensors tensors_;
};

TEST_F(PackCacheTest, SecondLoadTakesWhatTheFirstPacked) {
  for (const WeightDtype dtype : {WeightDtype::kF32, WeightDtype::kBF16, WeightDtype::kI8}) {
    const Loaded plain = Load(dtype, /*cached=*/false);
    const Loaded first = Load(dtype);
    EXPECT_EQ(first.stats.packed, kNumWeights);
    EXPECT_EQ(first.stats.stored, kNumWeights);
    const Loaded second = Load(dtype);
    EXPECT_EQ(second.stats.taken, kNumWeights);
    EXPECT_EQ(second.stats.packed, 0);
    EXPECT_EQ(second.stats.damaged, 0);
    EXPECT_TRUE(SameBits(first.logits, plain.logits));
    EXPECT_TRUE(SameBits(second.logits, plain.logits));
  }
  EXPECT_EQ(static_cast<int64_t>(Entries().size()), 3 * kNumWeights);
}

TEST_F(PackCacheTest, QuantizedCheckpoints) {
  for (const char* name : {"awq", "gptq_int4_asym", "int8_asym"}) {
    model_dir_ = absl::StrCat("tests/golden/quantized/", name);
    const auto spec = LoadModelSpec(model_dir_);
    const auto checkpoint = Checkpoint::OpenDir(model_dir_);
    ASSERT_TRUE(spec.ok() && checkpoint.ok());
    TestBackend device(isa_, 2);
    for (const bool again : {false, true}) {
      const auto cache = PackCache::Open(options_);
      WeightOptions options;
      options.pack_cache = cache->get();
      ASSERT_TRUE(LoadWeights(*spec, **checkpoint, device.backend.get(), options).ok());
      EXPECT_EQ((*cache)->stats().taken, again ? 6 : 0) << name;
    }
  }
}

// The changed file has the size and the time stamp of the old file.
TEST_F(PackCacheTest, ChangedContentIsNeverTaken) {
  Load();
  const std::string file = model_dir_ + "/model.safetensors";
  const auto written = fs::last_write_time(file);
  tensors_["model.layers.1.mlp.up_proj.weight"].bytes[4 * 100 + 3] ^= 0x40;
  WriteRawTensors(model_dir_, tensors_);
  fs::last_write_time(file, written);
  const Loaded changed = Load();
  EXPECT_EQ(changed.stats.packed, 1);
  EXPECT_EQ(changed.stats.taken, kNumWeights - 1);
  EXPECT_TRUE(SameBits(changed.logits, Load(WeightDtype::kI4, /*cached=*/false).logits));
}

TEST_F(PackCacheTest, EqualShapesAreToldApart) {
  Load();
  std::swap(tensors_["model.layers.0.mlp.up_proj.weight"],
            tensors_["model.layers.0.mlp.gate_proj.weight"]);
  WriteRawTensors(model_dir_, tensors_);
  EXPECT_EQ(Load().stats.packed, 1);
}

TEST_F(PackCacheTest, FormatsAndInstructionSetsDoNotMix) {
  Load(WeightDtype::kBF16);
  EXPECT_EQ(Load(WeightDtype::kI8).stats.taken, 0);
  // With int4 weights, the embedding table, the Logits weight and the 3 output projections are
  // int8.
  EXPECT_EQ(Load(WeightDtype::kI4).stats.taken, 2 + 3);
  if (CpuBackends().size() < 2) return;
  isa_ = CpuBackends().back();
  EXPECT_EQ(Load(WeightDtype::kI8).stats.taken, 0);
}

TEST_F(PackCacheTest, DamagedEntriesAreWrittenAgain) {
  const Loaded whole = Load();
  const auto damage = [this](size_t at, char flip) {
    std::fstream file(Entries()[3], std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(at));
    const char byte = static_cast<char>(file.get() ^ flip);
    file.seekp(static_cast<std::streamoff>(at));
    file.put(byte);
  };
  const auto expect_repaired = [&](const std::string& what) {
    const Loaded loaded = Load();
    EXPECT_EQ(loaded.stats.damaged, 1) << what;
    EXPECT_EQ(loaded.stats.stored, 1) << what;
    EXPECT_TRUE(SameBits(loaded.logits, whole.logits)) << what;
    EXPECT_EQ(Load().stats.taken, kNumWeights) << what;
  };
  const size_t size = fs::file_size(Entries()[3]);
  for (const size_t at :
       {size_t{0}, size_t{9}, size_t{41}, size_t{50}, size_t{57}, size / 2, size - 1}) {
    damage(at, 1);
    expect_repaired(absl::StrCat("byte ", at));
  }
  fs::resize_file(Entries()[3], size - 1);
  expect_repaired("truncated");
  fs::resize_file(Entries()[3], size + 1);
  expect_repaired("longer");
  fs::resize_file(Entries()[3], 0);
  expect_repaired("empty");
  fs::copy_file(Entries()[4], Entries()[3], fs::copy_options::overwrite_existing);
  expect_repaired("another's entry");
}

TEST_F(PackCacheTest, StaysWithinItsBound) {
  Load();
  const int64_t all = EntryBytes();
  fs::remove_all(options_.dir);
  options_.max_bytes = all / 2;
  const Loaded first = Load();
  EXPECT_LE(EntryBytes(), options_.max_bytes);
  EXPECT_GT(first.stats.stored, 0);
  EXPECT_LT(first.stats.stored, kNumWeights);
  EXPECT_EQ(first.stats.evicted, 0) << "what this load has stored stays";
  const Loaded second = Load();
  EXPECT_EQ(second.stats.taken, first.stats.stored);
  EXPECT_EQ(second.stats.evicted, 0) << "what this load has taken stays";
}

TEST_F(PackCacheTest, UsedLongestAgoGoesFirst) {
  const auto now = fs::file_time_type::clock::now();
  Load(WeightDtype::kBF16);
  const int64_t bf16_bytes = EntryBytes();
  for (const fs::path& path : Entries()) fs::last_write_time(path, now - std::chrono::hours(5));
  const std::vector<fs::path> bf16 = Entries();
  Load(WeightDtype::kI8);
  const int64_t int8_bytes = EntryBytes() - bf16_bytes;
  for (const fs::path& path : Entries()) {
    if (std::find(bf16.begin(), bf16.end(), path) != bf16.end()) continue;
    fs::last_write_time(path, now - std::chrono::hours(4));
  }
  EXPECT_EQ(Load(WeightDtype::kBF16).stats.taken, kNumWeights);  // written first, used last
  // float32 is twice as large as bfloat16, so it fits beside bfloat16 when most int8 entries go.
  options_.max_bytes = 3 * bf16_bytes + int8_bytes / 4;
  EXPECT_GT(Load(WeightDtype::kF32).stats.evicted, 0);
  EXPECT_LE(EntryBytes(), options_.max_bytes);
  EXPECT_EQ(Load(WeightDtype::kBF16).stats.taken, kNumWeights);
  EXPECT_LT(Load(WeightDtype::kI8).stats.taken, kNumWeights);
}

// The checkpoint's content changes while it is loaded.
TEST_F(PackCacheTest, ContentThatChangesWhileItIsPackedIsNotStored) {
  TestBackend device(isa_, 2);
  auto cache = PackCache::Open(options_);
  ASSERT_TRUE(cache.ok()) << cache.status();
  std::vector<float> numbers(64 * 64, 1.0f);
  StoredTensor tensor;
  tensor.dtype_name = "F32";
  tensor.dtype = DType::kF32;
  tensor.shape = {64, 64};
  tensor.data = reinterpret_cast<const char*>(numbers.data());
  tensor.num_bytes = static_cast<int64_t>(numbers.size() * sizeof(float));
  StoredMatrix matrix;
  matrix.rows = matrix.cols = 64;
  matrix.weight = &tensor;
  const WeightFormat format(DType::kF32);
  const auto find = [&](float next) {
    return (*cache)->Find(device.backend.get(), {matrix}, format, false, device.team.get(), [&] {
      auto packed = device.backend->Pack({Unpack(matrix, device.team.get()).view}, format, false);
      numbers[0] = next;
      return packed;
    });
  };
  EXPECT_NE(find(/*next=*/2.0f), nullptr);
  EXPECT_EQ((*cache)->stats().packed, 1);
  EXPECT_EQ((*cache)->stats().stored, 0);
  EXPECT_TRUE(Entries().empty());
  EXPECT_NE(find(/*next=*/2.0f), nullptr);
  EXPECT_EQ((*cache)->stats().stored, 1);
}

TEST_F(PackCacheTest, LeftoversOfAWriterAreRemoved) {
  Load();
  const std::string old_file = options_.dir + "/0.1.0.writing";
  const std::string new_file = options_.dir + "/0.2.0.writing";
  std::ofstream(old_file) << "half";
  std::ofstream(new_file) << "half";
  fs::last_write_time(old_file, fs::file_time_type::clock::now() - std::chrono::hours(2));
  EXPECT_EQ(Load().stats.taken, kNumWeights);
  EXPECT_FALSE(fs::exists(old_file));
  EXPECT_TRUE(fs::exists(new_file)) << "its writer may be at work";
}

TEST_F(PackCacheTest, BackendsThatCannotRestoreArePackedAsEver) {
  isa_ = "ref";
  EXPECT_EQ(Load().stats.stored, 0);
  EXPECT_EQ(Load().stats.packed, kNumWeights);
}

TEST_F(PackCacheTest, FolderIsForThisUserAlone) {
  Load();
  EXPECT_EQ(fs::status(options_.dir).permissions(), fs::perms::owner_all);
}

TEST_F(PackCacheTest, FolderThatIsNoneIsRefused) {
  options_.dir = model_dir_ + "/config.json";
  EXPECT_THAT(std::string(PackCache::Open(options_).status().message()),
              HasSubstr("is not a folder; give --pack-cache a folder"));
}

}  // namespace
}  // namespace tessera::testing
