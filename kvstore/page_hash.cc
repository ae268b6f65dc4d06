#include "kvstore/page_hash.h"

#include <cstring>

#include "kernels/base/log.h"

namespace tessera {
namespace {

constexpr size_t kTagBytes = 8;
constexpr absl::string_view kPageTag = "TSRpage1";
constexpr absl::string_view kRunTag = "TSRruns1";
constexpr absl::string_view kApproximateTag = "TSRappr1";

}  // namespace

PageHash PageHasher::Finish() {
  const Sha256Digest digest = sha_.Finish();
  PageHash hash;
  std::memcpy(&hash.hi, digest.data(), sizeof(hash.hi));
  std::memcpy(&hash.lo, digest.data() + sizeof(hash.hi), sizeof(hash.lo));
  return hash;
}

PageHash PageHasher::Record(absl::string_view tag, absl::Span<const absl::string_view> fields) {
  CHECK_EQ(tag.size(), kTagBytes);
  sha_.Add(tag.data(), tag.size());
  uint64_t number = 0;
  for (const absl::string_view field : fields) {
    sha_.AddNumber(++number);
    sha_.AddField(field);
  }
  return Finish();
}

PageHash PageHasher::Chain(absl::string_view tag, const PageHash& parent,
                           absl::Span<const TokenId> tokens) {
  struct Header {
    char tag[kTagBytes];
    uint64_t num_tokens;
    uint64_t parent_hi;
    uint64_t parent_lo;
  } header;
  static_assert(sizeof(Header) == 32);
  std::memcpy(header.tag, tag.data(), sizeof(header.tag));
  header.num_tokens = tokens.size();
  header.parent_hi = parent.hi;
  header.parent_lo = parent.lo;
  sha_.Add(&header, sizeof(header));
  sha_.Add(tokens.data(), tokens.size() * sizeof(TokenId));
  return Finish();
}

PageHash PageHasher::Page(const PageHash& parent, absl::Span<const TokenId> tokens) {
  return Chain(kPageTag, parent, tokens);
}

PageHash PageHasher::Run(const PageHash& parent, absl::Span<const TokenId> tokens) {
  CHECK(!tokens.empty() && tokens.size() <= kRunTokens) << tokens.size() << " tokens in a run";
  return Chain(kRunTag, parent, tokens);
}

PageHash HashPage(const PageHash& parent, absl::Span<const TokenId> tokens) {
  return PageHasher().Page(parent, tokens);
}

PageHash ApproximateRoot(const PageHash& exact_root, absl::string_view kv_class) {
  const absl::string_view root(reinterpret_cast<const char*>(&exact_root), sizeof(exact_root));
  return PageHasher().Record(kApproximateTag, {root, kv_class});
}

std::vector<PageHash> RunNames(const PageHash& root, absl::Span<const TokenId> tokens) {
  PageHasher hasher;
  std::vector<PageHash> names;
  PageHash parent = root;
  for (size_t begin = 0; begin < tokens.size(); begin += kRunTokens) {
    parent = hasher.Run(parent, tokens.subspan(begin, kRunTokens));
    names.push_back(parent);
  }
  return names;
}

}  // namespace tessera
