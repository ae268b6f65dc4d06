// Defines ExpectPageOpsWork of op_properties.h.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "tests/lib/naive_ops.h"
#include "tests/lib/op_properties.h"

namespace tessera::testing {
namespace {

// Applies page ops to a batch's pool and compares the pool with the expected contents, head by
// head.
class PageOpCheck {
 public:
  PageOpCheck(Backend* backend, const AttentionCase& attention, uint64_t seed)
      : backend_(backend),
        built_(BuildBatch(attention, seed)),
        before_(BuildBatch(attention, seed)) {}

  // Runs an op and checks the pool. want(layer, token of the op, head, part) returns the expected K
  // (part 0) or V (part 1) vector.
  template <class Want>
  void Run(const PageOp& op, const std::vector<int32_t>& indices, double tolerance,
           const Want& want) {
    StepBatch batch = built_->batch;
    BatchArena arena;
    batch.page_ops = arena.AddCopy(std::vector<PageOp>{op});
    batch.indices = arena.AddCopy(indices);
    batch.slot_updates = arena.AddCopy(std::vector<SlotUpdate>{{1, 42}, {0, 7}, {1, 43}});
    std::vector<TokenId> slot_tokens(3, 5);
    ApplyArgs args;
    args.batch = {&batch, arena.base()};
    args.layout = &built_->layout;
    args.pool = built_->pool();
    args.slot_tokens = slot_tokens.data();
    args.ropes.assign(
        built_->layout.num_groups(),
        std::vector<const RopeSpec*>(built_->layout.groups[0].num_layers, &built_->rope));
    backend_->Apply(args);
    EXPECT_EQ(slot_tokens, (std::vector<TokenId>{7, 43, 5}));
    Compare(op, tolerance, want);
    before_->pool_words = built_->pool_words;  // the next op starts here
  }

  BuiltBatch* before() { return before_.get(); }
  const BuiltBatch& built() const { return *built_; }

 private:
  template <class Want>
  void Compare(const PageOp& op, double tolerance, const Want& want) {
    // The pool must equal before_ wherever the op does not write. So this writes the expected heads
    // to before_ and then compares the whole pools.
    const GroupLayout& layout = built_->layout.groups[op.group];
    std::vector<std::pair<char*, std::vector<char>>> patches;
    for (int layer = op.layer_begin; layer < op.layer_end; ++layer) {
      for (int head = 0; head < layout.kv_heads; ++head) {
        for (int t = 0; t < op.num_tokens; ++t) {
          for (int part : {0, 1}) {
            const std::vector<float> actual =
                ReadHead(built_.get(), op.group, layer, op.dst, op.dst_token + t, head, part);
            ExpectClose(actual, want(layer, t, head, part), tolerance, tolerance, "page op");
            for (const GroupLayout::TokenArray& array : layout.token_arrays()) {
              if (array.element_bytes == 0) continue;
              const int64_t offset = layout.HeadOffset(layer, head) + part * layout.value_offset() +
                                     array.offset + (op.dst_token + t) * array.element_bytes;
              const char* element = built_->pool().Page(op.dst) + offset;
              patches.push_back({before_->pool().Page(op.dst) + offset,
                                 std::vector<char>(element, element + array.element_bytes)});
            }
          }
        }
      }
    }
    for (const auto& [at, bytes] : patches) std::memcpy(at, bytes.data(), bytes.size());
    EXPECT_EQ(before_->pool_words, built_->pool_words) << "bytes that the op does not name changed";
  }

  Backend* backend_;
  std::unique_ptr<BuiltBatch> built_;
  std::unique_ptr<BuiltBatch> before_;
};

std::vector<float> Turned(const BuiltBatch& built, std::vector<float> key, int delta) {
  const size_t half = built.rope.inv_freq.size();
  for (size_t i = 0; i < half; ++i) {
    const double angle = static_cast<float>(delta) * built.rope.inv_freq[i];
    const double a = key[i];
    const double b = key[i + half];
    key[i] = static_cast<float>(a * std::cos(angle) - b * std::sin(angle));
    key[i + half] = static_cast<float>(b * std::cos(angle) + a * std::sin(angle));
  }
  return key;
}

}  // namespace

void ExpectPageOpsWork(Backend* backend, const AttentionCase& attention, uint64_t seed) {
  PageOpCheck check(backend, attention, seed);
  const PageLayout& layout = check.built().layout;
  const int page_tokens = layout.page_tokens();
  const int kv_heads = attention.kv_heads;
  const PageId a = layout.slabs_per_page;
  const PageId b = 2 * layout.slabs_per_page;
  for (int group = 0; group < layout.num_groups(); ++group) {
    const int num_layers = layout.groups[group].num_layers;
    PageOp op;
    op.group = group;
    op.src = a;
    op.dst = b;
    op.layer_end = num_layers;
    const auto source = [&](int token, int layer, int head, int part) {
      return ReadHead(check.before(), group, layer, op.src, token, head, part);
    };
    op.num_tokens = page_tokens;
    check.Run(op, {}, 0.0,
              [&](int layer, int t, int head, int part) { return source(t, layer, head, part); });
    op.src_token = 1;
    op.dst_token = 3;
    op.num_tokens = page_tokens - 4;
    op.layer_begin = num_layers - 1;
    check.Run(op, {}, 0.0, [&](int layer, int t, int head, int part) {
      return source(t + 1, layer, head, part);
    });
    op.src = b;  // source and destination overlap
    check.Run(op, {}, 0.0, [&](int layer, int t, int head, int part) {
      return source(t + 1, layer, head, part);
    });

    op.kind = PageOpKind::kRopeShift;
    op.layer_begin = 0;
    for (int delta : {5, -1000}) {
      op.delta = delta;
      // The int8 tolerance is half a step of a row whose largest number is below 8.
      const double tolerance = attention.kv_dtype == DType::kF32    ? 1e-6
                               : attention.kv_dtype == DType::kBF16 ? 0x1p-8
                                                                    : 8.0 / 254.0;
      check.Run(op, {}, tolerance, [&](int layer, int t, int head, int part) {
        const std::vector<float> old =
            ReadHead(check.before(), group, layer, op.dst, op.dst_token + t, head, part);
        return part == 0 ? Turned(check.built(), old, op.delta) : old;
      });
    }

    op.kind = PageOpKind::kGather;
    op.src = a;
    op.index_begin = 2;
    const int num_lists = num_layers * kv_heads;
    std::vector<int32_t> indices(2 + static_cast<size_t>(num_lists) * page_tokens);
    for (size_t i = 0; i < indices.size(); ++i) {
      indices[i] = static_cast<int32_t>((i * 5 + i / 7) % page_tokens);
    }
    for (const PageId src : {a, b}) {
      for (const int stride : {0, page_tokens}) {
        op.src = src;
        op.index_stride = stride;
        // Lists are counted from layer 0 of the group, wherever the op starts.
        for (const int layer_begin : {0, num_layers - 1}) {
          op.layer_begin = layer_begin;
          check.Run(op, indices, 0.0, [&](int layer, int t, int head, int part) {
            return source(indices[2 + (layer * kv_heads + head) * stride + t], layer, head, part);
          });
        }
      }
    }
  }
}

}  // namespace tessera::testing
