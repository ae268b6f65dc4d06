#include "server/cli/token.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kernels/base/secret_file.h"
#include "kernels/base/sha256.h"
#include "kernels/base/status.h"

namespace tessera::cli {

absl::StatusOr<std::string> MakeToken() {
  std::array<char, 32> random;
  ssize_t got = 0;
  do {
    got = getrandom(random.data(), random.size(), 0);
  } while (got < 0 && errno == EINTR);
  // Linux gives requests of up to 256 bytes in one piece.
  if (got != static_cast<ssize_t>(random.size())) {
    return absl::UnavailableError(absl::StrCat(
        "the system gives no random bytes (", std::strerror(errno), "); make the token elsewhere"));
  }
  return absl::StrCat("tsr_",
                      absl::WebSafeBase64Escape(absl::string_view(random.data(), random.size())));
}

std::string TokenHash(absl::string_view token) {
  Sha256 hash;
  hash.Add(token.data(), token.size());
  const Sha256Digest digest = hash.Finish();
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
}

absl::StatusOr<std::string> ReadTokenFile(const std::string& path) {
  constexpr int64_t kLineBreakBytes = 2;
  ASSIGN_OR_RETURN(const std::string content,
                   ReadSecretFile(path, static_cast<int64_t>(kMaxTokenBytes) + kLineBreakBytes));
  absl::string_view token = content;
  if (absl::ConsumeSuffix(&token, "\n")) absl::ConsumeSuffix(&token, "\r");
  if (token.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is empty; write a token into it (`tessera token new` makes one)"));
  }
  if (!std::all_of(token.begin(), token.end(),
                   [](char c) { return absl::ascii_isgraph(static_cast<unsigned char>(c)); })) {
    return absl::InvalidArgumentError(
        absl::StrCat(path,
                     ": a token is one line of printable ASCII characters without spaces; write "
                     "nothing else into the file"));
  }
  if (token.size() > kMaxTokenBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": a token has at most ", kMaxTokenBytes, " bytes; make a shorter one"));
  }
  return std::string(token);
}

}  // namespace tessera::cli
