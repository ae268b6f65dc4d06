// The name of a model's content depends on each byte that is read. It does not depend on how the
// bytes are stored and loaded.
#include "kernels/model/checkpoint/content_hash.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/model/checkpoint/weights.h"
#include "tests/lib/raw_checkpoint.h"
#include "tests/lib/tiny_model.h"

namespace tessera::testing {
namespace {

namespace fs = std::filesystem;

constexpr char kAwqDir[] = "tests/golden/quantized/awq";

TEST(HashContentTest, DependsOnBytesAndNotOnThreads) {
  ThreadTeam one(1);
  ThreadTeam three(3);
  std::string bytes(3 * kHashPieceBytes + 5, 'x');
  const std::string hash = HashContent(bytes.data(), bytes.size(), &one);
  EXPECT_EQ(hash.size(), 32u);
  EXPECT_EQ(hash.find_first_not_of("0123456789abcdef"), std::string::npos);
  EXPECT_EQ(HashContent(bytes.data(), bytes.size(), &three), hash);
  EXPECT_NE(HashContent(bytes.data(), bytes.size() - 1, &one), hash);
  for (const size_t at : {size_t{0}, kHashPieceBytes, bytes.size() - 1}) {
    bytes[at] ^= 1;
    EXPECT_NE(HashContent(bytes.data(), bytes.size(), &one), hash) << at;
    bytes[at] ^= 1;
  }
  EXPECT_NE(HashContent(nullptr, 0, &one), hash);
}

TEST(TensorHashesTest, ReadTheBytesOnce) {
  ThreadTeam team(1);
  std::string bytes = "bytes";
  StoredTensor tensor;
  tensor.data = bytes.data();
  tensor.num_bytes = static_cast<int64_t>(bytes.size());
  TensorHashes hashes(&team);
  const std::string first = hashes.Of(tensor);
  bytes[0] = 'B';
  EXPECT_EQ(hashes.Of(tensor), first);
  EXPECT_NE(TensorHashes(&team).Of(tensor), first);
}

// NaN is found in every piece, whoever hashes it.
TEST(TensorHashesTest, SeeWhatIsNotFinite) {
  constexpr int64_t kRows = 40;  // pieces of 16, 16 and 8 rows
  constexpr int64_t kCols = 24;
  ThreadTeam team(2);
  for (const bool is_matrix : {true, false}) {
    for (const bool is_watched : {true, false}) {
      for (const int64_t bad_row : {int64_t{-1}, int64_t{0}, int64_t{17}, kRows - 1}) {
        std::vector<float> values(kRows * kCols, 1.0f);
        if (bad_row >= 0) values[bad_row * kCols + 5] = std::nanf("");
        StoredTensor tensor;
        tensor.dtype = DType::kF32;
        if (is_matrix) tensor.shape = {kRows, kCols};
        tensor.data = reinterpret_cast<const char*>(values.data());
        tensor.num_bytes = static_cast<int64_t>(values.size() * sizeof(float));
        TensorHashes hashes(&team);
        if (is_watched) {
          RowObserver* const observer = hashes.Watch(tensor);
          if (observer != nullptr) observer->WillRead(0, 32);
        }
        hashes.Of(tensor);
        EXPECT_EQ(hashes.IsFinite(tensor), bad_row < 0) << is_matrix << is_watched << bad_row;
      }
    }
  }
}

TEST(TensorHashesTest, OnlyFloatsCanBeInfinite) {
  ThreadTeam team(1);
  const std::string bytes(4096, '\xff');
  StoredTensor tensor;
  tensor.dtype_name = "I32";
  tensor.data = bytes.data();
  tensor.num_bytes = static_cast<int64_t>(bytes.size());
  TensorHashes hashes(&team);
  hashes.Of(tensor);
  EXPECT_TRUE(hashes.IsFinite(tensor));
}

// 40 rows of 8 bytes: pieces of 16, 16 and 8 rows.
class WatchedTensorTest : public ::testing::Test {
 protected:
  WatchedTensorTest() {
    tensor_.shape = {40, 8};
    tensor_.data = bytes_.data();
    tensor_.num_bytes = static_cast<int64_t>(bytes_.size());
    hash_ = TensorHashes(&team_).Of(tensor_);
  }

  ThreadTeam team_{2};
  std::string bytes_ = std::string(300, 'x') + std::string(20, 'y');
  StoredTensor tensor_;
  std::string hash_;
};

TEST_F(WatchedTensorTest, PiecesThatNobodyReadsAreHashedToo) {
  using Calls = std::vector<std::pair<int64_t, int64_t>>;
  for (const Calls& calls : {Calls{}, Calls{{16, 32}}, Calls{{32, 40}, {0, 16}, {16, 32}},
                             Calls{{0, 11}, {11, 27}, {27, 40}}, Calls{{0, 40}}}) {
    TensorHashes hashes(&team_);
    RowObserver* const observer = hashes.Watch(tensor_);
    ASSERT_NE(observer, nullptr);
    for (const auto& [begin, end] : calls) observer->WillRead(begin, end);
    EXPECT_EQ(hashes.Of(tensor_), hash_) << calls.size();
  }
}

TEST_F(WatchedTensorTest, PiecesThatWereReadAreNotReadAgain) {
  TensorHashes hashes(&team_);
  hashes.Watch(tensor_)->WillRead(16, 32);
  bytes_[16 * 8] = 'z';
  EXPECT_EQ(hashes.Of(tensor_), hash_);
  EXPECT_EQ(hashes.Watch(tensor_), nullptr);  // nothing is left to hash
}

TEST_F(WatchedTensorTest, EachRowCounts) {
  for (size_t at = 0; at < bytes_.size(); at += 8) {
    bytes_[at] ^= 1;
    TensorHashes hashes(&team_);
    hashes.Watch(tensor_)->WillRead(0, 40);
    EXPECT_NE(hashes.Of(tensor_), hash_) << at;
    bytes_[at] ^= 1;
  }
}

TEST_F(WatchedTensorTest, OnlyMatricesAreWatched) {
  tensor_.shape = {320};
  EXPECT_EQ(TensorHashes(&team_).Watch(tensor_), nullptr);
  tensor_.shape = {0, 8};
  tensor_.num_bytes = 0;
  EXPECT_EQ(TensorHashes(&team_).Watch(tensor_), nullptr);
  EXPECT_EQ(TensorHashes(&team_).Of(tensor_).size(), 32u);
}

class ContentOfWeightsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = absl::StrCat(::testing::TempDir(), "/content_hash_", getpid(), "_",
                         ::testing::UnitTest::GetInstance()->current_test_info()->name());
    Copy(GoldenModelDir("qwen2"));
  }
  void TearDown() override { fs::remove_all(root_); }

  void Copy(const std::string& source) {
    fs::remove_all(root_);
    fs::create_directories(dir());
    fs::copy_file(source + "/config.json", dir() + "/config.json");
    tensors_ = ReadRawTensors(source);
  }
  std::string dir() const { return root_ + "/model"; }

  static std::string HashOf(const std::string& dir, const WeightOptions& options = {},
                            const std::string& backend = "ref") {
    const auto spec = LoadModelSpec(dir);
    const auto checkpoint = Checkpoint::OpenDir(dir);
    if (!spec.ok() || !checkpoint.ok()) return "not a model";
    TestBackend device(backend, 2);
    const auto weights = LoadWeights(*spec, **checkpoint, device.backend.get(), options);
    return weights.ok() ? weights->content_hash : std::string(weights.status().message());
  }
  // Returns the name of the content of tensors_.
  std::string Hash() {
    WriteRawTensors(dir(), tensors_);
    return HashOf(dir());
  }

  std::string root_;
  RawTensors tensors_;
};

TEST_F(ContentOfWeightsTest, EveryTensorCounts) {
  const std::string hash = Hash();
  EXPECT_EQ(hash.size(), 32u) << hash;
  for (auto& [name, tensor] : tensors_) {
    tensor.bytes.back() ^= 1;
    EXPECT_NE(Hash(), hash) << name;
    EXPECT_EQ(Hash().size(), 32u) << name;
    tensor.bytes.back() ^= 1;
  }
  EXPECT_EQ(Hash(), hash);
}

TEST_F(ContentOfWeightsTest, NamesAndTypesCount) {
  const std::string hash = Hash();
  std::swap(tensors_["model.layers.0.mlp.up_proj.weight"],
            tensors_["model.layers.0.mlp.gate_proj.weight"]);
  EXPECT_NE(Hash(), hash);
  Copy(GoldenModelDir("llama_fp16"));
  const std::string fp16 = Hash();
  tensors_["model.norm.weight"].dtype = "BF16";
  EXPECT_NE(Hash(), fp16);
}

TEST_F(ContentOfWeightsTest, AllPartsOfQuantizedMatricesCount) {
  Copy(kAwqDir);
  const std::string hash = Hash();
  EXPECT_EQ(hash.size(), 32u) << hash;
  for (auto& [name, tensor] : tensors_) {
    tensor.bytes.front() ^= 1;
    const std::string changed = Hash();
    EXPECT_EQ(changed.size(), 32u) << name << ": " << changed;
    EXPECT_NE(changed, hash) << name;
    tensor.bytes.front() ^= 1;
  }
}

TEST_F(ContentOfWeightsTest, FilesFoldersAndWhatNobodyReadsDoNotCount) {
  Copy(GoldenModelDir("llama_bf16_sharded"));
  const std::string hash = Hash();
  EXPECT_EQ(hash, HashOf(GoldenModelDir("llama_bf16_sharded")));
  WriteRawTensors(dir(), tensors_, /*header_padding=*/3);
  EXPECT_EQ(HashOf(dir()), hash);
  tensors_["model.layers.0.self_attn.rotary_emb.inv_freq"] = {"F32", {8}, std::string(32, '\0')};
  EXPECT_EQ(Hash(), hash);
}

// The cpu backends hash rows while they pack them, ref does not. Tensors that are not aligned in
// the file are copied before they are packed.
TEST_F(ContentOfWeightsTest, BackendsAndAlignmentDoNotCount) {
  for (const std::string& model :
       {GoldenModelDir("qwen2"), GoldenModelDir("llama_fp16"), std::string(kAwqDir)}) {
    Copy(model);
    const std::string hash = Hash();
    EXPECT_EQ(hash.size(), 32u) << hash;
    for (const size_t padding : {0, 3}) {
      WriteRawTensors(dir(), tensors_, padding);
      for (const std::string& backend : AllBackends()) {
        EXPECT_EQ(HashOf(dir(), {}, backend), hash) << model << " " << backend << " " << padding;
      }
    }
  }
}

TEST_F(ContentOfWeightsTest, FormatsThreadsAndThePackCacheDoNotCount) {
  const std::string hash = Hash();
  ThreadTeam team(2);
  WeightOptions options;
  options.team = &team;
  EXPECT_EQ(HashOf(dir(), options), hash);
  options.request.dtype = WeightDtype::kI4;
  EXPECT_EQ(HashOf(dir(), options), hash);
  const std::string backend = AllBackends().back();
  EXPECT_EQ(HashOf(dir(), options, backend), hash);
  for (const bool again : {false, true}) {
    auto cache = PackCache::Open({root_ + "/cache"});
    ASSERT_TRUE(cache.ok()) << cache.status();
    options.pack_cache = cache->get();
    EXPECT_EQ(HashOf(dir(), options, backend), hash);
    EXPECT_EQ((*cache)->stats().taken > 0, again && backend != "ref");  // ref's weights stay out
  }
}

}  // namespace
}  // namespace tessera::testing
