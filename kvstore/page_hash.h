// Names for page contents. A page is named by a chain of hashes: the root stands for everything
// that contents depend on besides tokens; each page's hash covers its tokens and its parent's hash.
// Two pages with one name hold the same bytes, so a name may leave the process (tiers, peers).
// SHA-256 cut to 16 bytes: nobody can craft a prompt that meets another tenant's pages.
//
// Plain values; a PageHasher is used by one thread.
#pragma once

#include <openssl/evp.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/types/span.h"
#include "kernels/base/types.h"
#include "kernels/step/page_layout.h"

namespace tessera {

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

// Everything that the contents of a page depend on besides the tokens before and in it. Hashed as a
// tagged, length-prefixed record, so that no two fields can collide.
struct PrefixRoot {
  std::string deployment_secret;
  std::string model_revision;
  std::string page_layout;  // dtype, page_tokens, groups: PageLayoutKey()
  std::string adapter;      // name and revision; empty: base model
  std::string kv_policy;    // empty: exact
  std::string salt;         // tenant and request salt
};

// Computes names with one reused digest context: no allocation per page. About 125 ns for
// a page of 16 tokens, 235 ns for 64, on a 2.6 GHz EPYC with SHA extensions
// (bench/kvstore_bench.cc, BM_HashPage).
class PageHasher final {
 public:
  PageHasher();
  PageHasher(const PageHasher&) = delete;
  PageHasher& operator=(const PageHasher&) = delete;

  PageHash Root(const PrefixRoot& root);
  // The hash of a page that holds `tokens` after the page (or root) `parent`.
  PageHash Page(const PageHash& parent, absl::Span<const TokenId> tokens);
  PageHash ApproximateRoot(const PageHash& exact_root, std::string_view kv_class);

 private:
  struct FreeContext {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  void Begin();
  void Add(const void* bytes, size_t num_bytes);
  PageHash Finish();

  std::unique_ptr<EVP_MD_CTX, FreeContext> context_;
};

// For callers that hash once (a request's root); a loop keeps a PageHasher.
PageHash HashRoot(const PrefixRoot& root);
PageHash HashPage(const PageHash& parent, absl::Span<const TokenId> tokens);
// The root of approximate KV: of a quality class or chunk method (any bytes) under `exact_root`.
PageHash ApproximateRoot(const PageHash& exact_root, std::string_view kv_class);

// Names all that decides where a token's K and V lie in a page.
std::string PageLayoutKey(const PageLayout& layout);

}  // namespace tessera
