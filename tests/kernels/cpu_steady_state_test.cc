// A step of a shape that was seen before allocates nothing in the cpu backend.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "kernels/base/thread_team.h"
#include "kernels/device/backend.h"
#include "tests/lib/op_fixtures.h"

namespace {
std::atomic<int64_t> num_allocations{0};
}

void* operator new(size_t bytes) {
  num_allocations.fetch_add(1, std::memory_order_relaxed);
  void* const memory = std::malloc(bytes == 0 ? 1 : bytes);
  if (memory == nullptr) std::abort();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace tessera::testing {
namespace {

void ExpectAllocatesNothing(DType kv_dtype) {
  ThreadTeam team(2);
  const auto cpu = NewCpuBackend("", &team);
  AttentionCase attention;
  attention.kv_dtype = kv_dtype;
  attention.windows = {0, 100};
  attention.segments = {{300, 1}, {700, 1, 3}, {700, 1},
                        {700, 1}, {0, 60},     {20, 5, 2, {{100, 50, 50, 0.8f, 0.9f}}}};
  const auto built = BuildBatch(attention, 1);
  SharePages(built.get(), 3, 2, 40);
  const int64_t rows = built->num_tokens();
  const int64_t qkv_cols = built->qkv_cols();
  const int64_t hidden = built->out_cols();
  const std::vector<float> weight = RandomFloats(static_cast<size_t>(qkv_cols * hidden), 0.1f, 2);
  const auto packed =
      cpu->Pack({{weight.data(), DType::kF32, qkv_cols, hidden}}, DType::kBF16, false);
  const std::vector<float> norm(static_cast<size_t>(qkv_cols), 1.0f);
  std::vector<float> x = RandomFloats(static_cast<size_t>(rows * hidden), 1.0f, 3);
  std::vector<float> qkv(static_cast<size_t>(rows * qkv_cols));
  const std::vector<TokenId> slot_tokens(attention.segments.size(), 0);
  const std::vector<int32_t> logit_rows = {0, 5, 7};
  std::vector<float> logits(logit_rows.size() * static_cast<size_t>(qkv_cols));

  StepShape shape = built->shape();
  shape.post_norm_cols = qkv_cols;
  const auto step = [&] {
    BeginStep(cpu.get(), built->view(), shape);
    EmbedArgs embed;
    embed.batch = built->view();
    embed.table = packed.get();
    embed.slot_tokens = slot_tokens.data();
    embed.out = Tensor::F32(x.data(), rows, hidden);
    cpu->Embed(embed);
    LinearArgs linear;
    linear.x = Tensor::F32(x.data(), rows, hidden);
    linear.weight = packed.get();
    linear.pre_norm = {norm.data(), 1e-5f};
    linear.post_norm = {norm.data(), 1e-5f};
    linear.out = Tensor::F32(qkv.data(), rows, qkv_cols);
    cpu->Linear(linear);
    for (int group = 0; group < 2; ++group) {
      cpu->Attention(built->Args(group, 0, qkv.data(), x.data()));
    }
    LogitsArgs args;
    args.hidden = Tensor::F32(x.data(), rows, hidden);
    args.token_rows = logit_rows.data();
    args.num_rows = static_cast<int64_t>(logit_rows.size());
    args.final_norm = {norm.data(), 1e-5f};
    args.weight = packed.get();
    args.out = Tensor::F32(logits.data(), args.num_rows, qkv_cols);
    cpu->Logits(args);
  };
  step();  // once: which member takes which task is chance and must not show
  const int64_t before = num_allocations.load();
  EXPECT_GT(before, 0);
  for (int i = 0; i < 5; ++i) step();
  EXPECT_EQ(num_allocations.load(), before) << DTypeName(kv_dtype);
  EXPECT_EQ(cpu->num_grown(), 0) << "working memory is set aside when a step begins";
}

TEST(CpuSteadyStateTest, AllocatesNothing) {
  if (CpuIsas().empty()) GTEST_SKIP() << "no AVX2 here";
  ExpectAllocatesNothing(DType::kBF16);
  ExpectAllocatesNothing(DType::kI8);
}

}  // namespace
}  // namespace tessera::testing
