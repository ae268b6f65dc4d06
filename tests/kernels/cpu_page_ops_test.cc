// Compares Apply of the cpu backend with ref, bit for bit. Equality is exact because page ops only
// move bytes and rotate in scalar fp32.
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "kernels/base/thread_team.h"
#include "kernels/device/backend.h"
#include "tests/lib/op_fixtures.h"
#include "tests/lib/op_properties.h"

namespace tessera::testing {
namespace {

PageOp Op(PageOpKind kind, PageId src, PageId dst) {
  PageOp op;
  op.kind = kind;
  op.src = src;
  op.dst = dst;
  op.layer_end = 2;
  return op;
}

TEST(CpuPageOpsTest, EqualsRef) {
  if (CpuIsas().empty()) GTEST_SKIP() << "no AVX2 here";
  ThreadTeam team(2);
  const auto cpu = NewCpuBackend("", &team);
  const auto ref = NewRefBackend();
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kI8}) {
    AttentionCase attention;
    attention.kv_dtype = dtype;
    attention.head_dim = 24;
    attention.rotary_dim = 16;
    attention.layers_per_group = 2;
    attention.windows = {0, 30};
    attention.segments = {{100, 20}};
    std::vector<std::vector<uint64_t>> pools;
    std::vector<uint64_t> before;
    for (Backend* backend : {cpu.get(), ref.get()}) {
      const auto built = BuildBatch(attention, 21);
      before = built->pool_words;
      PageOp copy = Op(PageOpKind::kCopy, 2, 4);
      copy.src_token = 3;
      copy.dst_token = 1;
      copy.num_tokens = 9;
      PageOp overlap = Op(PageOpKind::kCopy, 4, 4);
      overlap.src_token = 0;
      overlap.dst_token = 2;
      overlap.num_tokens = 10;
      PageOp shift = Op(PageOpKind::kRopeShift, 0, 4);
      shift.group = 1;
      shift.layer_begin = 1;
      shift.dst_token = 2;
      shift.num_tokens = 11;
      shift.delta = -37;
      PageOp gather = Op(PageOpKind::kGather, 4, 6);
      gather.num_tokens = 5;
      gather.dst_token = 1;
      PageOp gather_heads = Op(PageOpKind::kGather, 6, 6);
      gather_heads.num_tokens = 3;
      gather_heads.index_begin = 5;
      gather_heads.index_stride = 3;
      built->batch.page_ops =
          built->arena.AddCopy(std::vector<PageOp>{copy, overlap, shift, gather, gather_heads});
      std::vector<int32_t> indices = {15, 0, 7, 7, 1};
      for (int i = 0; i < 2 * attention.kv_heads * 3; ++i) indices.push_back((i * 5) % 16);
      built->batch.indices = built->arena.AddCopy(indices);
      built->batch.slot_updates = built->arena.AddCopy(std::vector<SlotUpdate>{{1, 42}, {0, 7}});
      std::vector<TokenId> slot_tokens(2, -5);
      ApplyArgs args;
      args.batch = built->view();
      args.layout = &built->layout;
      args.pool = built->pool();
      args.ropes = {{&built->rope, &built->rope}, {&built->rope, &built->rope}};
      args.slot_tokens = slot_tokens.data();
      backend->Apply(args);
      EXPECT_EQ(slot_tokens, (std::vector<TokenId>{7, 42}));
      pools.push_back(built->pool_words);
    }
    EXPECT_NE(pools[0], before);
    EXPECT_EQ(pools[0], pools[1]) << DTypeName(dtype);
  }
}

TEST(CpuPageOpsTest, DoesWhatAPageOpSays) {
  if (CpuIsas().empty()) GTEST_SKIP() << "no AVX2 here";
  ThreadTeam team(2);
  const auto cpu = NewCpuBackend("", &team);
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kI8}) {
    AttentionCase attention;
    attention.kv_dtype = dtype;
    attention.layers_per_group = 3;
    attention.windows = {0, 30};
    attention.segments = {{100, 20}};
    ExpectPageOpsWork(cpu.get(), attention, 9);
  }
}

}  // namespace
}  // namespace tessera::testing
