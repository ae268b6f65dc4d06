// The names of KV contents. The name of a page or of a run (a range of up to kRunTokens tokens) is
// the last hash of a chain. The root of the chain stands for everything besides tokens that the
// contents depend on (identity.h), and each later hash stands for its parent and the tokens that
// follow. Two pages with the same name hold the same bytes. A name is a SHA-256 digest cut to 16
// bytes, so nobody can craft a prompt whose names equal those of another tenant's pages.
//
// Page names chain over pages of the engine's own size and stay in the process. Names that leave
// the process chain over runs of kRunTokens tokens, whatever the engine's pages hold. Each kind of
// record has its own tag, so that a root, a page and a run never have the same name.
//
// Plain values; one thread at a time uses a PageHasher.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/base/sha256.h"
#include "kernels/base/types.h"

namespace tessera {

// The number of tokens of a run. Runs are the units in which KV leaves and enters the process. The
// last run of a prompt may be shorter.
inline constexpr int32_t kRunTokens = 256;

// The first 16 bytes of a SHA-256.
struct PageHash {
  uint64_t hi = 0;
  uint64_t lo = 0;
  friend bool operator==(const PageHash& a, const PageHash& b) {
    return a.hi == b.hi && a.lo == b.lo;
  }
  friend bool operator!=(const PageHash& a, const PageHash& b) { return !(a == b); }
  template <class H>
  friend H AbslHashValue(H h, const PageHash& hash) {
    return H::combine(std::move(h), hash.hi, hash.lo);
  }
};

// Computes names with one reused digest context, so that it does not allocate for each page. A page
// of 16 tokens takes about 125 ns, a page of 64 tokens 235 ns, on a 2.6 GHz EPYC with SHA
// extensions (bench/kvstore_bench.cc, BM_HashPage).
class PageHasher final {
 public:
  // The hash of a tagged record whose fields are numbered and length-prefixed, so that no two lists
  // of fields collide. REQUIRES: the tag has 8 bytes.
  PageHash Record(absl::string_view tag, absl::Span<const absl::string_view> fields);
  // The hash of a page that holds `tokens` after the page (or root) `parent`.
  PageHash Page(const PageHash& parent, absl::Span<const TokenId> tokens);
  // The hash of a run that holds `tokens` after the run (or root) `parent`. REQUIRES: there are
  // 1 to kRunTokens tokens; a shorter run than kRunTokens is the last of its chain.
  PageHash Run(const PageHash& parent, absl::Span<const TokenId> tokens);

 private:
  PageHash Chain(absl::string_view tag, const PageHash& parent, absl::Span<const TokenId> tokens);
  PageHash Finish();

  Sha256 sha_;
};

// PageHasher::Page with a temporary hasher, for callers that hash a single page.
PageHash HashPage(const PageHash& parent, absl::Span<const TokenId> tokens);
// The root of approximate KV, derived from the root of the exact KV. `kv_class` names the quality
// class or chunk method of the approximate KV and may be any bytes.
PageHash ApproximateRoot(const PageHash& exact_root, absl::string_view kv_class);

// The names, under `root`, of the runs into which `tokens` are divided: one name for each
// kRunTokens tokens, and one for the shorter last run if there is one.
std::vector<PageHash> RunNames(const PageHash& root, absl::Span<const TokenId> tokens);

}  // namespace tessera
