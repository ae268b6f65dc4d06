// Certificates for tests of TLS: an authority that signs, and the PEM texts of what it signed. The
// keys are P-256, so that they are made in milliseconds. Owned by a test; one thread.
#pragma once

#include <openssl/evp.h>
#include <openssl/x509.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace tessera::testing {

// A certificate and its private key, both PEM.
struct CertifiedKey {
  std::string certificate;
  std::string key;
};

// The same private key, encrypted with a passphrase.
std::string LockedKey(const std::string& key, const std::string& passphrase);

// When something is valid, in seconds after now.
struct Validity {
  int64_t from_s = -3600;
  int64_t to_s = 24 * 3600;
};

class TestAuthority final {
 public:
  explicit TestAuthority(const std::string& name);
  // Signs with this certificate, whether it may or not.
  explicit TestAuthority(const CertifiedKey& certified);

  // The authority's own certificate.
  std::string pem() const;
  // The same with its key: a certificate that signs itself.
  CertifiedKey own() const;
  // Signs a certificate for these subject alternative names, as OpenSSL writes them:
  // "DNS:localhost,IP:127.0.0.1,URI:spiffe://a/b"; empty: without. `usage` is what the key may be
  // used for, e.g. "serverAuth"; empty: anything.
  CertifiedKey Sign(const std::string& names, Validity validity = {},
                    const std::string& usage = "") const;
  // An authority whose certificate this one has signed.
  TestAuthority SignAuthority(const std::string& name) const;
  // The list of the certificates (PEM) that this authority has revoked.
  std::string RevocationList(const std::vector<std::string>& certificates,
                             Validity validity = {}) const;

 private:
  struct Free {
    void operator()(X509* certificate) const { X509_free(certificate); }
    void operator()(X509_CRL* list) const { X509_CRL_free(list); }
    void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
  };
  using X509Ptr = std::unique_ptr<X509, Free>;
  using KeyPtr = std::unique_ptr<EVP_PKEY, Free>;
  using ListPtr = std::unique_ptr<X509_CRL, Free>;

  // `issuer` null: the authority signs its own certificate.
  TestAuthority(const std::string& name, const TestAuthority* issuer);

  // A certificate without extensions and signature. `issuer` null: it is its own.
  static X509Ptr Make(const std::string& name, EVP_PKEY* key, X509* issuer, Validity validity);

  KeyPtr key_;
  X509Ptr certificate_;
};

}  // namespace tessera::testing
