#include "kvstore/page_hash.h"

#include <array>
#include <bit>
#include <cstring>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"

namespace tessera {
namespace {

// The digest reads integers as they lie in memory, and names must not depend on the machine.
static_assert(std::endian::native == std::endian::little);

// Each record starts with a tag of eight bytes, so that records of two kinds are never equal.
constexpr std::string_view kRootTag = "TSRroot1";
constexpr std::string_view kPageTag = "TSRpage1";
constexpr std::string_view kApproximateTag = "TSRappr1";

}  // namespace

PageHasher::PageHasher() : context_(EVP_MD_CTX_new()) {
  CHECK(context_ != nullptr);
  CHECK_EQ(EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr), 1);
}

void PageHasher::Begin() { CHECK_EQ(EVP_DigestInit_ex(context_.get(), nullptr, nullptr), 1); }

void PageHasher::Add(const void* bytes, size_t num_bytes) {
  CHECK_EQ(EVP_DigestUpdate(context_.get(), bytes, num_bytes), 1);
}

PageHash PageHasher::Finish() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
  CHECK_EQ(EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr), 1);
  PageHash hash;
  std::memcpy(&hash.hi, digest.data(), sizeof(hash.hi));
  std::memcpy(&hash.lo, digest.data() + sizeof(hash.hi), sizeof(hash.lo));
  return hash;
}

PageHash PageHasher::Root(const PrefixRoot& root) {
  const std::string* const fields[] = {&root.deployment_secret, &root.model_revision,
                                       &root.page_layout,       &root.adapter,
                                       &root.kv_policy,         &root.salt};
  Begin();
  Add(kRootTag.data(), kRootTag.size());
  uint64_t field_tag = 0;
  for (const std::string* field : fields) {
    const uint64_t header[2] = {++field_tag, field->size()};
    Add(header, sizeof(header));
    Add(field->data(), field->size());
  }
  return Finish();
}

PageHash PageHasher::Page(const PageHash& parent, absl::Span<const TokenId> tokens) {
  struct Header {
    char tag[8];
    uint64_t num_tokens;
    uint64_t parent_hi;
    uint64_t parent_lo;
  } header;
  static_assert(sizeof(Header) == 32);
  std::memcpy(header.tag, kPageTag.data(), sizeof(header.tag));
  header.num_tokens = tokens.size();
  header.parent_hi = parent.hi;
  header.parent_lo = parent.lo;
  Begin();
  Add(&header, sizeof(header));
  Add(tokens.data(), tokens.size() * sizeof(TokenId));
  return Finish();
}

PageHash PageHasher::ApproximateRoot(const PageHash& exact_root, std::string_view kv_class) {
  const uint64_t header[3] = {exact_root.hi, exact_root.lo, kv_class.size()};
  Begin();
  Add(kApproximateTag.data(), kApproximateTag.size());
  Add(header, sizeof(header));
  Add(kv_class.data(), kv_class.size());
  return Finish();
}

PageHash HashRoot(const PrefixRoot& root) { return PageHasher().Root(root); }

PageHash HashPage(const PageHash& parent, absl::Span<const TokenId> tokens) {
  return PageHasher().Page(parent, tokens);
}

PageHash ApproximateRoot(const PageHash& exact_root, std::string_view kv_class) {
  return PageHasher().ApproximateRoot(exact_root, kv_class);
}

std::string PageLayoutKey(const PageLayout& layout) {
  std::string key = absl::StrCat("tokens=", layout.page_tokens());
  for (const GroupLayout& group : layout.groups) {
    absl::StrAppend(&key, ";", DTypeName(group.dtype), ",layers=", group.num_layers,
                    ",kv_heads=", group.kv_heads, ",head_dim=", group.head_dim,
                    ",window=", group.window);
  }
  return key;
}

}  // namespace tessera
