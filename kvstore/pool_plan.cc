#include "kvstore/pool_plan.h"

#include <limits>
#include <utility>

#include "kernels/base/log.h"
#include "kernels/base/types.h"

namespace tessera {
namespace {

constexpr int32_t kMinPageTokens = 8;
constexpr int32_t kMaxPageTokens = 64;
constexpr int32_t kPageTokensStep = 4;
constexpr int32_t kUsualPageTokens = 16;
constexpr int64_t kSlabAlignBytes = 64;

// The cost of a choice, in shares of the model's memory: the bytes that a page leaves unused in its
// slabs, and penalties. page_tokens other than 16 must be clearly better; tokens that are no
// multiple of 8 split vectors; larger pages leave more of a sequence's last page empty; pages of
// many slabs need whole regions.
struct Fit {
  int32_t page_tokens = 0;
  int32_t slabs_per_page = 0;
  double cost = std::numeric_limits<double>::infinity();
};

Fit BestFit(int64_t page_bytes_at_16, int64_t slab_bytes) {
  Fit best;
  for (int32_t tokens = kMinPageTokens; tokens <= kMaxPageTokens; tokens += kPageTokensStep) {
    const int64_t page_bytes = CeilDiv<int64_t>(page_bytes_at_16 * tokens, 16);
    int64_t slabs = 1;
    int order = 0;
    for (; slabs * slab_bytes < page_bytes; slabs *= 2) ++order;
    if (slabs > kMaxSlabsPerPage) continue;
    double cost = 1.0 - static_cast<double>(page_bytes) / static_cast<double>(slabs * slab_bytes);
    if (tokens != kUsualPageTokens) cost += 0.02;
    if (tokens % 8 != 0) cost += 0.01;
    cost += 0.0025 * tokens / kUsualPageTokens;
    cost += 0.003 * order;
    if (cost < best.cost) best = {tokens, static_cast<int32_t>(slabs), cost};
  }
  return best;
}

}  // namespace

PoolPlan PlanPool(const std::vector<int64_t>& page_bytes_at_16) {
  CHECK(!page_bytes_at_16.empty());
  PoolPlan plan;
  double best_cost = std::numeric_limits<double>::infinity();
  // The slab that fits best is one that some model fills exactly.
  for (const int64_t filling : page_bytes_at_16) {
    CHECK_GT(filling, 0);
    for (int32_t tokens = kMinPageTokens; tokens <= kMaxPageTokens; tokens += kPageTokensStep) {
      for (int32_t slabs = 1; slabs <= kMaxSlabsPerPage; slabs *= 2) {
        const int64_t slab_bytes =
            RoundUp(CeilDiv<int64_t>(filling * tokens, 16 * slabs), kSlabAlignBytes);
        double cost = 0.0;
        PoolPlan candidate{slab_bytes, {}, {}};
        for (const int64_t page_bytes : page_bytes_at_16) {
          const Fit fit = BestFit(page_bytes, slab_bytes);
          cost += fit.cost;
          candidate.page_tokens.push_back(fit.page_tokens);
          candidate.slabs_per_page.push_back(fit.slabs_per_page);
        }
        if (cost >= best_cost) continue;
        best_cost = cost;
        plan = std::move(candidate);
      }
    }
  }
  CHECK(!plan.page_tokens.empty());
  return plan;
}

}  // namespace tessera
