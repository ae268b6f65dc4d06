// Names for KV contents. A chain of hashes names a page or a run: the root stands for everything
// that contents depend on besides tokens (identity.h), and each later hash stands for the tokens
// that follow its parent. Two pages with one name hold the same bytes. SHA-256 cut to 16 bytes:
// nobody can craft a prompt that meets another tenant's pages.
//
// Page names chain over pages of the engine's own size and stay in the process. Names that leave
// the process chain over runs of kRunTokens tokens, whatever the engine's pages hold. Each kind of
// record has its own tag, so that a root, a page and a run never have one name.
//
// Plain values; a PageHasher is used by one thread.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/base/sha256.h"
#include "kernels/base/types.h"

namespace tessera {

// Tokens of a run: the unit in which KV leaves the process and comes back. The last run of a prompt
// may be shorter.
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

// Computes names with one reused digest context: no allocation per page. About 125 ns for
// a page of 16 tokens, 235 ns for 64, on a 2.6 GHz EPYC with SHA extensions
// (bench/kvstore_bench.cc, BM_HashPage).
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

// For callers that hash one page; a loop keeps a PageHasher.
PageHash HashPage(const PageHash& parent, absl::Span<const TokenId> tokens);
// The root of approximate KV: of a quality class or chunk method (any bytes) under `exact_root`.
PageHash ApproximateRoot(const PageHash& exact_root, absl::string_view kv_class);

// The names of the runs that `tokens` fill after `root`: one for each kRunTokens tokens, and one
// for the shorter end if there is one.
std::vector<PageHash> RunNames(const PageHash& root, absl::Span<const TokenId> tokens);

}  // namespace tessera
