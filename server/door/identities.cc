#include "server/door/identities.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>

#include <algorithm>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"

namespace tessera {
namespace {

Sha256Digest DigestOf(absl::string_view text) {
  Sha256 hash;
  hash.Add(text.data(), text.size());
  return hash.Finish();
}

std::string BytesOf(const Sha256Digest& digest) { return {digest.begin(), digest.end()}; }

// The digest that 64 hexadecimal digits write.
std::optional<Sha256Digest> ReadDigest(absl::string_view text) {
  Sha256Digest digest;
  if (text.size() != 2 * digest.size()) return std::nullopt;
  if (!std::all_of(text.begin(), text.end(), absl::ascii_isxdigit)) return std::nullopt;
  const std::string bytes = absl::HexStringToBytes(text);
  std::copy(bytes.begin(), bytes.end(), digest.begin());
  return digest;
}

absl::Status Refused(size_t index, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("security.identities[", index, "] ", why));
}

}  // namespace

Identities::Identities() { CHECK_EQ(RAND_bytes(key_.data(), static_cast<int>(key_.size())), 1); }

absl::StatusOr<Identities> Identities::Make(const std::vector<IdentityRule>& rules) {
  Identities made;
  for (size_t i = 0; i < rules.size(); ++i) {
    const IdentityRule& rule = rules[i];
    if (rule.tenant.size() > kMaxTenantBytes) {
      return Refused(i, absl::StrCat("has a tenant of ", rule.tenant.size(),
                                     " bytes; give at most ", kMaxTenantBytes));
    }
    if (rule.token_sha256.empty() == rule.certificate_san.empty()) {
      return Refused(i,
                     "needs either token_sha256 or certificate_san; `tessera token new` makes a "
                     "token and its hash");
    }
    made.callers_.push_back({rule.tenant, rule.admin, ""});
    if (rule.token_sha256.empty()) {
      if (made.by_name_.try_emplace(rule.certificate_san, i).second) continue;
      return Refused(i, "has the certificate_san of an earlier identity; remove one of them");
    }
    const std::optional<Sha256Digest> digest = ReadDigest(rule.token_sha256);
    if (!digest) {
      return Refused(i,
                     "has a token_sha256 that is not 64 hexadecimal digits; give the hash that "
                     "`tessera token new` prints, not the token");
    }
    if (!made.by_token_.try_emplace(BytesOf(made.PlaceOf(*digest)), Token{*digest, i}).second) {
      return Refused(i, "has the token_sha256 of an earlier identity; remove one of them");
    }
  }
  return made;
}

Sha256Digest Identities::PlaceOf(const Sha256Digest& digest) const {
  Sha256 hash;
  hash.Add(key_.data(), key_.size());
  hash.Add(digest.data(), digest.size());
  return hash.Finish();
}

const Caller* Identities::FindToken(absl::string_view token) const {
  if (token.size() > kMaxTokenBytes) return nullptr;
  const Sha256Digest digest = DigestOf(token);
  const auto found = by_token_.find(BytesOf(PlaceOf(digest)));
  if (found == by_token_.end()) return nullptr;
  const Sha256Digest& known = found->second.digest;
  return CRYPTO_memcmp(known.data(), digest.data(), digest.size()) == 0
             ? &callers_[found->second.caller]
             : nullptr;
}

const Caller* Identities::FindNames(absl::Span<const std::string> names) const {
  size_t first = callers_.size();
  for (const std::string& name : names) {
    const auto found = by_name_.find(name);
    if (found != by_name_.end()) first = std::min(first, found->second);
  }
  return first < callers_.size() ? &callers_[first] : nullptr;
}

}  // namespace tessera
