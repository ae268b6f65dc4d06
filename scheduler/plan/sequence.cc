#include "scheduler/plan/sequence.h"

#include <algorithm>

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
