#include "scheduler/plan/sequence.h"

#include <algorithm>

#include "kernels/base/log.h"

namespace tessera {

void Sequence::TakePrompt() {
  if (!tokens.empty()) return;
  tokens = request->prompt;
  if (prompt_counts != nullptr) counts = *prompt_counts;
}

void Sequence::TakeToken(TokenId token) {
  tokens.push_back(token);
  if (!has_penalties()) return;
  auto it = std::lower_bound(counts.begin(), counts.end(), token,
                             [](const TokenCount& c, TokenId id) { return c.token < id; });
  if (it == counts.end() || it->token != token) it = counts.insert(it, {token, 0, 0});
  ++it->output_count;
}

int64_t Sequence::num_hole_tokens() const {
  int64_t num_tokens = 0;
  for (const TokenRange& hole : holes) {
    num_tokens += std::max<int64_t>(0, hole.end - std::max(hole.begin, holes_launched));
  }
  return num_tokens;
}

int64_t Sequence::NextToCompute() const {
  for (const TokenRange& hole : holes) {
    if (hole.end > holes_launched) return std::max(hole.begin, holes_launched);
  }
  return num_scheduled();
}

void Sequence::NextRanges(int64_t num_tokens, absl::InlinedVector<TokenRange, 1>* ranges) const {
  const auto take = [&](int64_t begin, int64_t end) {
    const int64_t count = std::min(num_tokens, end - begin);
    if (count <= 0) return;
    ranges->push_back({begin, begin + count});
    num_tokens -= count;
  };
  for (const TokenRange& hole : holes) take(std::max(hole.begin, holes_launched), hole.end);
  take(num_scheduled(), this->num_tokens());
}

void Sequence::Launched(const TokenRange& range) {
  if (range.begin >= num_computed) {
    num_inflight += static_cast<int32_t>(range.size());
  } else {
    holes_launched = range.end;
  }
}

// Steps retire in the order of their launches, so the tokens of a hole retire in ascending order.
void Sequence::Retired(const TokenRange& range) {
  if (range.begin >= num_computed) {
    num_inflight -= static_cast<int32_t>(range.size());
    num_computed += range.size();
    return;
  }
  CHECK(!holes.empty() && holes.front().begin == range.begin) << "a step retires out of order";
  TokenRange& first = holes.front();
  first.begin = range.end;
  if (first.begin == first.end) holes.erase(holes.begin());
}

std::vector<TokenCount> CountPrompt(absl::Span<const TokenId> prompt) {
  std::vector<TokenId> distinct(prompt.begin(), prompt.end());
  std::sort(distinct.begin(), distinct.end());
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
  std::vector<TokenCount> counts;
  counts.reserve(distinct.size());
  for (const TokenId token : distinct) counts.push_back({token, 0, 1});
  return counts;
}

}  // namespace tessera
