// Shared by the tests of the KV store: layouts without tensors, and the amount of random work.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/step/page_layout.h"
#include "kvstore/identity.h"
#include "kvstore/kv_manager.h"
#include "tests/lib/sanitizers.h"

namespace tessera::testing {

inline constexpr int64_t kSlabBytes = 4096;

// A verb takes several times longer under a sanitizer.
inline constexpr int64_t kWorkDivisor = kSanitized ? 25 : 1;

// A layout with one group per window (0: full attention).
inline PageLayout MakeLayout(int32_t page_tokens, const std::vector<int32_t>& windows,
                             int32_t slabs_per_page = 1) {
  PageLayout layout;
  for (const int32_t window : windows) {
    GroupLayout group;
    group.num_layers = 2;
    group.kv_heads = 1;
    group.head_dim = 4;
    group.page_tokens = page_tokens;
    group.window = window;
    layout.groups.push_back(group);
  }
  layout.slabs_per_page = slabs_per_page;
  layout.slab_bytes = kSlabBytes;
  return layout;
}

inline PageHash RootOfSalt(const std::string& salt) {
  Identity identity;
  identity.salt = salt;
  return RootOf(identity);
}

// The tokens first, first + 1, ...
inline std::vector<TokenId> Iota(int64_t count, TokenId first = 0) {
  std::vector<TokenId> tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(first + static_cast<TokenId>(i));
  return tokens;
}

}  // namespace tessera::testing
