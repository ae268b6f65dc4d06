// The callers that the server knows: by the SHA-256 of a bearer token, or by a subject alternative
// name of a client certificate. A set is immutable; a changed configuration gives a new set. Any
// thread.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/base/sha256.h"
#include "server/door/caller.h"

namespace tessera {

inline constexpr size_t kMaxTenantBytes = 128;
inline constexpr size_t kMaxTokenBytes = 4096;

// One configured identity. Exactly one of token_sha256 and certificate_san is not empty.
struct IdentityRule {
  std::string tenant;
  bool admin = false;
  std::string token_sha256;  // 64 hexadecimal digits
  std::string certificate_san;
};

class Identities final {
 public:
  // No identities: everybody is the tenant "".
  Identities();
  // Errors name the identity as security.identities[i] and say what to change; they contain no
  // secret.
  static absl::StatusOr<Identities> Make(const std::vector<IdentityRule>& rules);

  bool empty() const { return callers_.empty(); }
  bool has_tokens() const { return !by_token_.empty(); }
  bool has_certificates() const { return !by_name_.empty(); }

  // The caller with this token; null: the token is not known. The time does not depend on how much
  // of a token is right.
  const Caller* FindToken(absl::string_view token) const;
  // The caller of a certificate with these names (ClientCertificateNames, tls.h); null: none of
  // them is known. If several are known, the one that is configured first counts.
  const Caller* FindNames(absl::Span<const std::string> names) const;

 private:
  // The key of a token's place in the table: the digest, hashed once more with a key that is drawn
  // for this set. Who guesses tokens knows neither, so the time of the search tells nothing.
  Sha256Digest PlaceOf(const Sha256Digest& digest) const;

  struct Token {
    Sha256Digest digest;
    size_t caller = 0;
  };

  std::array<unsigned char, 32> key_;
  std::vector<Caller> callers_;                       // in the order of the configuration
  absl::flat_hash_map<std::string, Token> by_token_;  // by the bytes of PlaceOf
  absl::flat_hash_map<std::string, size_t> by_name_;
};

}  // namespace tessera
