#include "server/cli/pem.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <memory>

#include "kernels/base/log.h"

namespace tessera::cli {
namespace {

struct Free {
  void operator()(BIO* bio) const { BIO_free(bio); }
  void operator()(X509* certificate) const { X509_free(certificate); }
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
using BioPtr = std::unique_ptr<BIO, Free>;
using X509Ptr = std::unique_ptr<X509, Free>;
using KeyPtr = std::unique_ptr<EVP_PKEY, Free>;

BioPtr Reader(absl::string_view pem) {
  BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  CHECK(bio != nullptr);
  return bio;
}

// Stands in for OpenSSL's function that asks for a passphrase at the terminal.
int NoPassphrase(char*, int, int, void*) { return -1; }

X509Ptr NextCertificate(BIO* bio) {
  return X509Ptr(PEM_read_bio_X509(bio, nullptr, &NoPassphrase, nullptr));
}

}  // namespace

absl::Status CheckCertificates(absl::string_view pem) {
  ERR_clear_error();
  const BioPtr bio = Reader(pem);
  int num_certificates = 0;
  while (NextCertificate(bio.get()) != nullptr) ++num_certificates;
  const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  ERR_clear_error();
  if (at_end && num_certificates > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      at_end ? "has no certificate; give a PEM file, which has a line BEGIN CERTIFICATE"
             : "has a damaged certificate; copy the file again");
}

absl::Status CheckKey(absl::string_view pem, absl::string_view certificates) {
  ERR_clear_error();
  const KeyPtr key(PEM_read_bio_PrivateKey(Reader(pem).get(), nullptr, &NoPassphrase, nullptr));
  const X509Ptr certificate = NextCertificate(Reader(certificates).get());
  const bool fits = key != nullptr && certificate != nullptr &&
                    X509_check_private_key(certificate.get(), key.get()) == 1;
  ERR_clear_error();
  if (fits) return absl::OkStatus();
  return absl::InvalidArgumentError(
      key == nullptr ? "has no private key that can be read; give a PEM file whose key has no "
                       "passphrase"
                     : "is the key of another certificate; give the key of the first certificate "
                       "in the certificate's file");
}

}  // namespace tessera::cli
