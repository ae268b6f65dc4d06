// Tests of the memory plan: computed defaults fit, and settings that do not fit give an error that
// says what to change.
#include "scheduler/device/assemble.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/memory.h"
#include "tests/lib/file_zoo.h"
#include "tests/lib/raw_checkpoint.h"
#include "tests/lib/real_stack.h"
#include "tests/lib/tiny_model.h"

namespace tessera::testing {
namespace {

AssembleOptions Options(const std::string& model) {
  AssembleOptions options;
  options.models = {{"m", GoldenModelDir(model)}};
  options.backend = "ref";
  options.engine.max_num_seqs = 4;
  options.engine.max_num_batched_tokens = 64;
  return options;
}

TEST(AssembleTest, TheComputedPoolHoldsFullContextsOfAllSequences) {
  const AssembleOptions options = Options("llama32");
  const auto plan = PlanMemory(options);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->models[0].max_model_len, plan->models[0].spec.max_positions);
  auto device = Assemble(options, *plan);
  ASSERT_TRUE(device.ok()) << device.status();
  const int64_t full = device->kv->SlabsFor(0, plan->models[0].max_model_len, 64);
  EXPECT_GE(device->kv->usage().total_slabs, 4 * full);
}

TEST(AssembleTest, TheContextIsCutToWhatThePoolHolds) {
  AssembleOptions options = Options("llama32");
  const auto whole = PlanMemory(options);
  ASSERT_TRUE(whole.ok());
  options.kv_cache_bytes = 3 * whole->slab_bytes;
  const auto plan = PlanMemory(options);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->models[0].max_model_len, 3 * plan->models[0].layout.page_tokens());
}

// A given length is kept or refused with the bytes that it needs; it is never cut.
TEST(AssembleTest, AGivenLengthThatThePoolDoesNotHoldIsRefused) {
  AssembleOptions options = Options("llama32");
  const auto whole = PlanMemory(options);
  ASSERT_TRUE(whole.ok()) << whole.status();
  const int64_t context = whole->models[0].spec.max_positions;
  options.max_model_len = context;
  options.kv_cache_bytes = 3 * whole->slab_bytes;
  const absl::Status refused = PlanMemory(options).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_NE(refused.message().find(absl::StrCat("--kv-cache-bytes ", options.kv_cache_bytes)),
            std::string::npos)
      << refused;
  const int64_t fits = 3 * whole->models[0].layout.page_tokens();
  EXPECT_NE(refused.message().find(absl::StrCat("lower --max-model-len to ", fits)),
            std::string::npos)
      << refused;
  int64_t needed = 0;
  const size_t at = refused.message().find("needs a KV cache of ");
  ASSERT_NE(at, std::string::npos) << refused;
  ASSERT_TRUE(absl::SimpleAtoi(std::string(refused.message().substr(
                                   at + 20, refused.message().find(" bytes", at) - at - 20)),
                               &needed));
  options.kv_cache_bytes = needed - 1;
  EXPECT_FALSE(PlanMemory(options).ok());
  options.kv_cache_bytes = needed;
  const auto kept = PlanMemory(options);
  ASSERT_TRUE(kept.ok()) << kept.status();
  EXPECT_EQ(kept->models[0].max_model_len, context);
  options.kv_cache_bytes = 3 * whole->slab_bytes;
  options.max_model_len = fits;
  const auto lowered = PlanMemory(options);
  ASSERT_TRUE(lowered.ok()) << lowered.status();
  EXPECT_EQ(lowered->models[0].max_model_len, fits);
}

TEST(AssembleTest, AGivenLengthAboveTheContextIsRefused) {
  AssembleOptions options = Options("llama32");
  const int64_t context = LoadModelSpec(options.models[0].dir)->max_positions;
  options.max_model_len = context + 1;
  const absl::Status refused = PlanMemory(options).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << refused;
  EXPECT_NE(refused.message().find(absl::StrCat("lower --max-model-len to at most ", context)),
            std::string::npos)
      << refused;
  options.max_model_len = context;
  const auto plan = PlanMemory(options);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->models[0].max_model_len, context);
}

// A token's int8 row takes one byte for each number and four bytes for the scale.
TEST(AssembleTest, Int8KvTakesHalfThePool) {
  AssembleOptions options = Options("llama32");
  int64_t pool_bytes[2] = {};
  for (const KvDtype dtype : {KvDtype::kBF16, KvDtype::kI8}) {
    options.kv_dtype = dtype;
    const auto plan = PlanMemory(options);
    ASSERT_TRUE(plan.ok()) << plan.status();
    const GroupLayout& group = plan->models[0].layout.groups[0];
    EXPECT_EQ(group.dtype, dtype == KvDtype::kI8 ? DType::kI8 : DType::kBF16);
    EXPECT_EQ(group.token_bytes(), dtype == KvDtype::kI8 ? group.head_dim + 4 : 2 * group.head_dim);
    EXPECT_GE(plan->models[0].layout.page_bytes(), group.page_bytes());
    pool_bytes[dtype == KvDtype::kI8] = plan->pool_bytes();
    EXPECT_TRUE(Assemble(options, *plan).ok());
  }
  const double head_dim = 16.0;
  EXPECT_NEAR(static_cast<double>(pool_bytes[1]) / static_cast<double>(pool_bytes[0]),
              (head_dim + 4.0) / (2.0 * head_dim), 0.05);
}

TEST(AssembleTest, APoolForNobodyIsRefused) {
  AssembleOptions options = Options("qwen2_alternating");
  options.kv_cache_bytes = 1;
  const auto plan = PlanMemory(options);
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(plan.status().message().find("raise --kv-cache-bytes"), std::string::npos)
      << plan.status();
}

TEST(AssembleTest, MoreThanTheMachineHasIsRefusedBeforeItIsAllocated) {
  AssembleOptions options = Options("llama32");
  options.kv_cache_bytes = int64_t{1} << 50;
  const auto plan = PlanMemory(options);
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(plan.status().message().find("lower --kv-cache-bytes"), std::string::npos)
      << plan.status();
  EXPECT_NE(plan.status().message().find("MiB are available (" + FindAvailableMemory().bound + ")"),
            std::string::npos)
      << plan.status();
}

// Indices into a step's results have 32 bits, which limits the number of embedding values.
TEST(AssembleTest, StepsWhoseEmbeddingsCannotBeCountedAreRefused) {
  AssembleOptions options = Options("llama32");
  const auto spec = LoadModelSpec(options.models[0].dir);
  ASSERT_TRUE(spec.ok());
  const int64_t most = INT32_MAX / spec->hidden;
  options.engine.max_num_batched_tokens = static_cast<int32_t>(most + 1);
  const absl::Status status = PlanMemory(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_NE(status.message().find(absl::StrCat("lower --max-num-batched-tokens to ", most)),
            std::string::npos)
      << status;
  options.engine.max_num_batched_tokens = static_cast<int32_t>(most);
  EXPECT_NE(PlanMemory(options).status().code(), absl::StatusCode::kInvalidArgument);
}

// Bytes of this process's resident anonymous memory, which excludes mapped files.
int64_t ResidentBytes() {
  std::ifstream file("/proc/self/status");
  for (std::string word; file >> word;) {
    int64_t kib = 0;
    if (word == "RssAnon:" && file >> kib) return kib << 10;
  }
  return 0;
}

// Steps of the largest size, with prompts and embeddings, on a shipped model allocate no more
// memory than the plan foresees.
TEST(AssembleTest, WhatIsTakenStaysBelowThePlan) {
  const std::string dir = "deploy/models/tessera-nano";
  constexpr int32_t kStepTokens = 8000;
  RealStackOptions options;
  options.model_dirs = {dir};
  options.backend = "";
  options.bf16 = true;
  options.engine.max_num_seqs = 8;
  options.engine.max_num_batched_tokens = kStepTokens;

  AssembleOptions assemble;
  assemble.models = {{"m", dir}};
  assemble.weight_dtype = WeightDtype::kBF16;
  assemble.kv_dtype = KvDtype::kBF16;
  assemble.page_tokens = options.page_tokens;
  assemble.engine = options.engine;
  assemble.kv_cache_bytes = 1 << 20;
  const auto sized = PlanMemory(assemble);
  ASSERT_TRUE(sized.ok()) << sized.status();
  options.num_slabs = kStepTokens / options.page_tokens + 16;
  assemble.kv_cache_bytes = options.num_slabs * sized->slab_bytes;
  const auto plan = PlanMemory(assemble);
  ASSERT_TRUE(plan.ok()) << plan.status();

  const int64_t before = ResidentBytes();
  ASSERT_GT(before, 0);
  RealStack stack(options);
  for (int i = 0; i < 8; ++i) {
    Request request;
    if (i % 2 == 1) request.kind = RequestKind::kEmbed;
    for (int t = 0; t < kStepTokens / 8; ++t) request.prompt.push_back((i * 37 + t * 11) % 1000);
    request.stopping.max_tokens = 1;
    stack.Submit(request);
  }
  stack.RunAll();
  EXPECT_LE(stack.stats().steps.value(), 4) << "the prompts were not computed together";
  EXPECT_LE(ResidentBytes() - before, plan->total_bytes());
}

TEST(AssembleTest, TheSecondStartTakesPackedWeights) {
  if (CpuIsas().empty()) GTEST_SKIP() << "no AVX2 here";
  AssembleOptions options = Options("llama32");
  options.backend = "";
  options.weight_dtype = WeightDtype::kI4;
  options.pack_cache.dir = ::testing::TempDir() + absl::StrCat("/assemble_", getpid());
  const auto plan = PlanMemory(options);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto first = Assemble(options, *plan);
  const auto second = Assemble(options, *plan);
  std::filesystem::remove_all(options.pack_cache.dir);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(first->pack_cache.taken, 0);
  EXPECT_EQ(second->pack_cache.taken, first->pack_cache.packed);
  EXPECT_EQ(second->pack_cache.packed, 0);
}

ModelIdentity IdentityOf(const AssembleOptions& options) {
  const auto plan = PlanMemory(options);
  EXPECT_TRUE(plan.ok()) << plan.status();
  const auto device = Assemble(options, *plan);
  EXPECT_TRUE(device.ok()) << device.status();
  return device->engine.models[0].identity;
}

TEST(AssembleTest, AModelsIdentityIsThatOfItsContentAndFormats) {
  AssembleOptions options = Options("llama32");
  const ModelIdentity identity = IdentityOf(options);
  EXPECT_EQ(identity.weights.size(), 32u);
  EXPECT_EQ(identity.spec.size(), 32u);
  EXPECT_NE(identity.numerics.find("; tag "), std::string::npos) << identity.numerics;

  options.models[0].name = "another";
  options.models[0].dir = std::filesystem::absolute(options.models[0].dir).string();
  options.page_tokens = 32;
  options.max_model_len = 64;
  const ModelIdentity same = IdentityOf(options);
  EXPECT_EQ(same.weights, identity.weights);
  EXPECT_EQ(same.spec, identity.spec);
  EXPECT_EQ(same.numerics, identity.numerics);

  options.weight_dtype = WeightDtype::kI8;
  const ModelIdentity int8 = IdentityOf(options);
  EXPECT_EQ(int8.weights, identity.weights);
  EXPECT_EQ(int8.spec, identity.spec);
  EXPECT_NE(int8.numerics, identity.numerics);

  const ModelIdentity other = IdentityOf(Options("qwen2"));
  EXPECT_NE(other.weights, identity.weights);
  EXPECT_NE(other.spec, identity.spec);
}

TEST(AssembleTest, AnUnknownBackendIsNamedWithThoseThatExist) {
  AssembleOptions options = Options("llama32");
  options.backend = "avx1024";
  const auto plan = PlanMemory(options);
  ASSERT_TRUE(plan.ok());
  const auto device = Assemble(options, *plan);
  EXPECT_EQ(device.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(device.status().message().find("avx1024"), std::string::npos);
  EXPECT_NE(device.status().message().find("ref"), std::string::npos);
}

// An output table that differs from the embedding table is planned, loaded and used.
TEST(AssembleTest, AStoredHeadThatDiffersIsServed) {
  FileZoo zoo;
  AssembleOptions options = Options("llama32");
  const auto tied = PlanMemory(options);
  ASSERT_TRUE(tied.ok()) << tied.status();
  std::filesystem::copy_file(options.models[0].dir + "/config.json", zoo.Path("config.json"));
  RawTensors tensors = ReadRawTensors(options.models[0].dir);
  RawTensor head = tensors.at("model.embed_tokens.weight");
  head.bytes.assign(head.bytes.size(), '\0');
  tensors["lm_head.weight"] = head;
  WriteRawTensors(zoo.dir(), tensors);
  options.models[0].dir = zoo.dir();
  const auto plan = PlanMemory(options);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_FALSE(plan->models[0].spec.tied_embeddings);
  EXPECT_GT(plan->models[0].weight_bytes, tied->models[0].weight_bytes);
  EXPECT_TRUE(Assemble(options, *plan).ok());
}

TEST(AssembleTest, ProgressReachesTheEnd) {
  AssembleOptions options = Options("llama_bf16_sharded");
  const auto plan = PlanMemory(options);
  ASSERT_TRUE(plan.ok());
  int64_t last_done = 0;
  int64_t last_total = -1;
  options.progress = [&](const std::string& model, int64_t done, int64_t total) {
    EXPECT_EQ(model, "m");
    EXPECT_GE(done, last_done);
    last_done = done;
    last_total = total;
  };
  ASSERT_TRUE(Assemble(options, *plan).ok());
  EXPECT_EQ(last_done, last_total);
}

}  // namespace
}  // namespace tessera::testing
