#include "server/cli/connection.h"

#include <cstdint>
#include <cstdlib>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/foreign_file.h"
#include "kernels/base/secret_file.h"
#include "kernels/base/status.h"
#include "server/cli/pem.h"
#include "server/cli/token.h"

namespace tessera::cli {
namespace {

// A bundle of all public authorities has about 250 KB.
constexpr int64_t kMaxCertificateBytes = int64_t{4} << 20;
constexpr int64_t kMaxKeyBytes = int64_t{64} << 10;

// The value of a flag and where it comes from, for messages.
struct Given {
  std::string origin;
  std::string value;
};

// The value of the flag, else of the environment variable. An empty variable counts as absent.
std::optional<Given> FlagOrVariable(const Arguments& arguments, const std::string& flag,
                                    const char* variable) {
  if (auto value = arguments.Text(flag)) return Given{flag, *std::move(value)};
  const char* const value = std::getenv(variable);
  if (value == nullptr || *value == '\0') return std::nullopt;
  return Given{absl::StrCat("$", variable), value};
}

// Puts the flag or variable that named the file before the error.
absl::Status Of(const Given& given, const absl::Status& status) {
  return {status.code(), absl::StrCat(given.origin, ": ", status.message())};
}

absl::StatusOr<std::string> ReadCertificates(const Given& given) {
  absl::StatusOr<std::string> pem =
      ReadForeignFile(given.value, {.max_bytes = kMaxCertificateBytes, .roots = {}});
  if (!pem.ok()) return Of(given, pem.status());
  if (const absl::Status status = CheckCertificates(*pem); !status.ok()) {
    return Of(given, {status.code(), absl::StrCat(given.value, ": ", status.message())});
  }
  return pem;
}

absl::Status ReadAuthorities(const Arguments& arguments, ConnectionOptions* options) {
  if (arguments.Has("--tls") && arguments.Has("--tls-ca")) {
    return absl::InvalidArgumentError(
        "--tls trusts the authorities of this system and --tls-ca those of a file; give one of "
        "the two");
  }
  options->tls = true;
  if (arguments.Has("--tls")) return absl::OkStatus();
  const std::optional<Given> ca = FlagOrVariable(arguments, "--tls-ca", "TESSERA_TLS_CA");
  options->tls = ca.has_value();
  if (!ca) return absl::OkStatus();
  ASSIGN_OR_RETURN(options->ca, ReadCertificates(*ca));
  return absl::OkStatus();
}

// Reads the client's certificate and its key. REQUIRES: options->tls is set.
absl::Status ReadIdentity(const Arguments& arguments, ConnectionOptions* options) {
  const auto certificate = arguments.Text("--tls-cert");
  const auto key = arguments.Text("--tls-key");
  if (!certificate && !key) return absl::OkStatus();
  if (!key) return absl::InvalidArgumentError("--tls-cert needs its private key: --tls-key FILE");
  if (!certificate) {
    return absl::InvalidArgumentError("--tls-key needs its certificate: --tls-cert FILE");
  }
  if (!options->tls) {
    return absl::InvalidArgumentError(
        "--tls-cert needs TLS: give --tls-ca FILE with the authority of the server's certificate, "
        "or --tls");
  }
  ASSIGN_OR_RETURN(options->certificate, ReadCertificates({"--tls-cert", *certificate}));
  const Given given = {"--tls-key", *key};
  absl::StatusOr<std::string> pem = ReadSecretFile(*key, kMaxKeyBytes);
  if (!pem.ok()) return Of(given, pem.status());
  if (const absl::Status status = CheckKey(*pem, options->certificate); !status.ok()) {
    return Of(given, {status.code(), absl::StrCat(*key, ": ", status.message())});
  }
  options->key = *std::move(pem);
  return absl::OkStatus();
}

}  // namespace

FlagSpec TokenFileFlag() {
  return {"--token-file", "FILE",
          "file of mode 600 with the token that tells who calls ($TESSERA_TOKEN_FILE)"};
}

std::vector<FlagSpec> ConnectionFlags() {
  return {
      {"--server", "HOST:PORT", "address of tesserad (127.0.0.1:50051, or $TESSERA_SERVER)"},
      TokenFileFlag(),
      {"--tls-ca", "FILE",
       "use TLS; PEM of the CAs that sign the server's certificate ($TESSERA_TLS_CA)"},
      {"--tls", nullptr, "use TLS with the CAs that this system trusts"},
      {"--tls-cert", "FILE", "PEM of the client's certificate, if the server asks for one"},
      {"--tls-key", "FILE", "PEM of the private key of --tls-cert; file of mode 600"},
  };
}

absl::StatusOr<std::string> ReadToken(const Arguments& arguments) {
  const std::optional<Given> path = FlagOrVariable(arguments, "--token-file", "TESSERA_TOKEN_FILE");
  if (!path) return "";
  absl::StatusOr<std::string> token = ReadTokenFile(path->value);
  if (!token.ok()) return Of(*path, token.status());
  return token;
}

absl::StatusOr<ConnectionOptions> ReadConnection(const Arguments& arguments) {
  ConnectionOptions options;
  const std::optional<Given> server = FlagOrVariable(arguments, "--server", "TESSERA_SERVER");
  options.server = server ? server->value : "127.0.0.1:50051";
  ASSIGN_OR_RETURN(options.token, ReadToken(arguments));
  RETURN_IF_ERROR(ReadAuthorities(arguments, &options));
  RETURN_IF_ERROR(ReadIdentity(arguments, &options));
  return options;
}

}  // namespace tessera::cli
