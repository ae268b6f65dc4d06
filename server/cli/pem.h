// Checks PEM files before a TLS library gets them, because the library's errors name no file and
// come only when a connection fails. Errors contain no byte of a file. Pure functions; any thread.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace tessera::cli {

// OK if `pem` has at least one certificate and all its certificates can be parsed.
absl::Status CheckCertificates(absl::string_view pem);

// OK if `pem` is a private key without a passphrase, and it is the key of the first certificate of
// `certificates`.
absl::Status CheckKey(absl::string_view pem, absl::string_view certificates);

}  // namespace tessera::cli
