#include "tests/lib/certificates.h"

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include <cstdint>

#include "kernels/base/log.h"

namespace tessera::testing {
namespace {

void AddExtension(X509* certificate, X509* issuer, int id, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, id, value.c_str());
  CHECK(extension != nullptr);
  CHECK_EQ(X509_add_ext(certificate, extension, -1), 1);
  X509_EXTENSION_free(extension);
}

template <class Write>
std::string Pem(const Write& write) {
  BIO* bio = BIO_new(BIO_s_mem());
  CHECK_EQ(write(bio), 1);
  char* bytes = nullptr;
  const auto num_bytes = static_cast<size_t>(BIO_get_mem_data(bio, &bytes));
  std::string text(bytes, num_bytes);
  BIO_free(bio);
  return text;
}

// Parses a PEM text with one of the functions PEM_read_bio_*.
template <class T, class Read>
T* Parse(const std::string& pem, const Read& read) {
  BIO* bio = BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size()));
  T* const parsed = read(bio, nullptr, nullptr, nullptr);
  BIO_free(bio);
  CHECK(parsed != nullptr);
  return parsed;
}

std::string CertificatePem(X509* certificate) {
  return Pem([certificate](BIO* bio) { return PEM_write_bio_X509(bio, certificate); });
}

// Encrypted if there is a passphrase.
std::string KeyPem(EVP_PKEY* key, const std::string& passphrase) {
  return Pem([&](BIO* bio) {
    return PEM_write_bio_PrivateKey(bio, key, passphrase.empty() ? nullptr : EVP_aes_128_cbc(),
                                    reinterpret_cast<const unsigned char*>(passphrase.data()),
                                    static_cast<int>(passphrase.size()), nullptr, nullptr);
  });
}

}  // namespace

std::string LockedKey(const std::string& key, const std::string& passphrase) {
  EVP_PKEY* const parsed = Parse<EVP_PKEY>(key, PEM_read_bio_PrivateKey);
  std::string locked = KeyPem(parsed, passphrase);
  EVP_PKEY_free(parsed);
  return locked;
}

TestAuthority::X509Ptr TestAuthority::Make(const std::string& name, EVP_PKEY* key, X509* issuer,
                                           Validity validity) {
  X509Ptr certificate(X509_new());
  CHECK_EQ(X509_set_version(certificate.get(), X509_VERSION_3), 1);
  uint32_t serial = 0;
  CHECK_EQ(RAND_bytes(reinterpret_cast<unsigned char*>(&serial), sizeof(serial)), 1);
  ASN1_INTEGER_set_uint64(X509_get_serialNumber(certificate.get()), serial);
  X509_gmtime_adj(X509_getm_notBefore(certificate.get()), validity.from_s);
  X509_gmtime_adj(X509_getm_notAfter(certificate.get()), validity.to_s);
  CHECK_EQ(X509_set_pubkey(certificate.get(), key), 1);
  X509_NAME* const subject = X509_get_subject_name(certificate.get());
  CHECK_EQ(
      X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC,
                                 reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0),
      1);
  X509* const signer = issuer == nullptr ? certificate.get() : issuer;
  CHECK_EQ(X509_set_issuer_name(certificate.get(), X509_get_subject_name(signer)), 1);
  return certificate;
}

TestAuthority::TestAuthority(const std::string& name) : TestAuthority(name, nullptr) {}

TestAuthority::TestAuthority(const std::string& name, const TestAuthority* issuer)
    : key_(EVP_EC_gen("P-256")),
      certificate_(
          Make(name, key_.get(), issuer == nullptr ? nullptr : issuer->certificate_.get(), {})) {
  X509* const signer = issuer == nullptr ? certificate_.get() : issuer->certificate_.get();
  AddExtension(certificate_.get(), signer, NID_basic_constraints, "critical,CA:TRUE");
  AddExtension(certificate_.get(), signer, NID_key_usage, "critical,keyCertSign,cRLSign");
  EVP_PKEY* const key = issuer == nullptr ? key_.get() : issuer->key_.get();
  CHECK_GT(X509_sign(certificate_.get(), key, EVP_sha256()), 0);
}

TestAuthority::TestAuthority(const CertifiedKey& certified)
    : key_(Parse<EVP_PKEY>(certified.key, PEM_read_bio_PrivateKey)),
      certificate_(Parse<X509>(certified.certificate, PEM_read_bio_X509)) {}

CertifiedKey TestAuthority::own() const { return {pem(), KeyPem(key_.get(), "")}; }

std::string TestAuthority::pem() const { return CertificatePem(certificate_.get()); }

CertifiedKey TestAuthority::Sign(const std::string& names, Validity validity,
                                 const std::string& usage) const {
  const KeyPtr key(EVP_EC_gen("P-256"));
  // The common name has 64 bytes at most.
  const std::string subject = names.empty() ? "test" : names.substr(0, 64);
  const X509Ptr certificate = Make(subject, key.get(), certificate_.get(), validity);
  if (!names.empty()) {
    AddExtension(certificate.get(), certificate_.get(), NID_subject_alt_name, names);
  }
  if (!usage.empty()) AddExtension(certificate.get(), certificate_.get(), NID_ext_key_usage, usage);
  CHECK_GT(X509_sign(certificate.get(), key_.get(), EVP_sha256()), 0);
  return {CertificatePem(certificate.get()), KeyPem(key.get(), "")};
}

TestAuthority TestAuthority::SignAuthority(const std::string& name) const {
  return TestAuthority(name, this);
}

std::string TestAuthority::RevocationList(const std::vector<std::string>& certificates,
                                          Validity validity) const {
  const ListPtr list(X509_CRL_new());
  CHECK_EQ(X509_CRL_set_version(list.get(), X509_CRL_VERSION_2), 1);
  CHECK_EQ(X509_CRL_set_issuer_name(list.get(), X509_get_subject_name(certificate_.get())), 1);
  ASN1_TIME* const time = ASN1_TIME_new();
  CHECK_EQ(X509_CRL_set1_lastUpdate(list.get(), X509_gmtime_adj(time, validity.from_s)), 1);
  CHECK_EQ(X509_CRL_set1_nextUpdate(list.get(), X509_gmtime_adj(time, validity.to_s)), 1);
  for (const std::string& pem : certificates) {
    const X509Ptr certificate(Parse<X509>(pem, PEM_read_bio_X509));
    X509_REVOKED* const revoked = X509_REVOKED_new();
    CHECK_EQ(X509_REVOKED_set_serialNumber(revoked, X509_get_serialNumber(certificate.get())), 1);
    CHECK_EQ(X509_REVOKED_set_revocationDate(revoked, X509_gmtime_adj(time, -60)), 1);
    CHECK_EQ(X509_CRL_add0_revoked(list.get(), revoked), 1);  // takes the ownership
  }
  ASN1_TIME_free(time);
  CHECK_EQ(X509_CRL_sort(list.get()), 1);
  CHECK_GT(X509_CRL_sign(list.get(), key_.get(), EVP_sha256()), 0);
  return Pem([&list](BIO* bio) { return PEM_write_bio_X509_CRL(bio, list.get()); });
}

}  // namespace tessera::testing
