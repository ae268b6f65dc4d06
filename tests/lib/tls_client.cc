#include "tests/lib/tls_client.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <sys/stat.h>

#include <utility>

#include "kernels/base/log.h"

namespace tessera::testing {
namespace {

struct FreeBio {
  void operator()(BIO* bio) const { BIO_free(bio); }
};
using Bytes = std::unique_ptr<BIO, FreeBio>;

Bytes Reader(const std::string& text) {
  return Bytes(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

void UseCertificate(SSL_CTX* context, const CertifiedKey& certified) {
  const Bytes reader = Reader(certified.certificate);
  X509* certificate = PEM_read_bio_X509(reader.get(), nullptr, nullptr, nullptr);
  CHECK_EQ(SSL_CTX_use_certificate(context, certificate), 1);
  X509_free(certificate);
  while ((certificate = PEM_read_bio_X509(reader.get(), nullptr, nullptr, nullptr)) != nullptr) {
    CHECK_EQ(SSL_CTX_add0_chain_cert(context, certificate), 1);  // takes the ownership
  }
  ERR_clear_error();  // that there is no further certificate
  EVP_PKEY* const key =
      PEM_read_bio_PrivateKey(Reader(certified.key).get(), nullptr, nullptr, nullptr);
  CHECK_EQ(SSL_CTX_use_PrivateKey(context, key), 1);
  EVP_PKEY_free(key);
}

}  // namespace

TlsClientContext::TlsClientContext(const TlsClientOptions& options)
    : context_(SSL_CTX_new(TLS_client_method())) {
  CHECK(context_ != nullptr);
  if (options.only_tls12) SSL_CTX_set_max_proto_version(context_, TLS1_2_VERSION);
  X509* const ca = PEM_read_bio_X509(Reader(options.ca).get(), nullptr, nullptr, nullptr);
  CHECK_EQ(X509_STORE_add_cert(SSL_CTX_get_cert_store(context_), ca), 1);
  X509_free(ca);
  SSL_CTX_set_verify(context_, SSL_VERIFY_PEER, nullptr);
  SSL_CTX_set_mode(context_, SSL_MODE_RELEASE_BUFFERS);
  if (!options.certificate.key.empty()) UseCertificate(context_, options.certificate);
  std::string offered;
  for (const std::string& protocol : options.protocols) {
    offered += static_cast<char>(protocol.size());
    offered += protocol;
  }
  if (offered.empty()) return;
  const auto* const bytes = reinterpret_cast<const unsigned char*>(offered.data());
  CHECK_EQ(SSL_CTX_set_alpn_protos(context_, bytes, static_cast<unsigned>(offered.size())), 0);
}

TlsClientContext::~TlsClientContext() { SSL_CTX_free(context_); }

TlsClient::TlsClient(const TlsClientContext& context)
    : ssl_(SSL_new(context.context_)),
      from_server_(BIO_new(BIO_s_mem())),
      to_server_(BIO_new(BIO_s_mem())) {
  CHECK(ssl_ != nullptr && from_server_ != nullptr && to_server_ != nullptr);
  SSL_set_bio(ssl_, from_server_, to_server_);  // takes the ownership
  SSL_set_connect_state(ssl_);
  Handshake();
}

TlsClient::~TlsClient() { SSL_free(ssl_); }

void TlsClient::Check(int result) {
  const int error = SSL_get_error(ssl_, result);
  if (error == SSL_ERROR_WANT_READ) return;
  if (error == SSL_ERROR_ZERO_RETURN) {
    ended_ = true;
    return;
  }
  const char* const reason = ERR_reason_error_string(ERR_peek_last_error());
  error_ = reason == nullptr ? "unknown error" : reason;
}

void TlsClient::Handshake() {
  ERR_clear_error();
  const int result = SSL_do_handshake(ssl_);
  if (result == 1) {
    open_ = true;
  } else {
    Check(result);
  }
}

std::string TlsClient::Receive(absl::string_view wire) {
  if (!wire.empty()) {
    CHECK_EQ(BIO_write(from_server_, wire.data(), static_cast<int>(wire.size())),
             static_cast<int>(wire.size()));
  }
  if (!open_ && error_.empty()) Handshake();
  std::string plain;
  while (open_ && !ended_ && error_.empty()) {
    char piece[16 << 10];
    ERR_clear_error();
    size_t received = 0;
    const int result = SSL_read_ex(ssl_, piece, sizeof(piece), &received);
    if (result != 1) {
      Check(result);
      break;
    }
    plain.append(piece, received);
  }
  // A BIO keeps the memory that it once needed, and tests measure the memory of the process.
  if (BIO_ctrl_pending(from_server_) == 0) {
    from_server_ = BIO_new(BIO_s_mem());
    SSL_set0_rbio(ssl_, from_server_);  // frees the other one
  }
  return plain;
}

void TlsClient::Send(absl::string_view plain) {
  CHECK(open_);
  if (plain.empty() || !error_.empty()) return;
  ERR_clear_error();
  size_t sent = 0;
  const int result = SSL_write_ex(ssl_, plain.data(), plain.size(), &sent);
  if (result != 1) Check(result);
}

void TlsClient::ChangeKeys() {
  CHECK(open_);
  CHECK_EQ(SSL_key_update(ssl_, SSL_KEY_UPDATE_REQUESTED), 1);
  CHECK_EQ(SSL_do_handshake(ssl_), 1);
}

void TlsClient::End() { SSL_shutdown(ssl_); }

std::string TlsClient::TakeWire() {
  std::string wire(BIO_ctrl_pending(to_server_), '\0');
  if (wire.empty()) return wire;
  CHECK_EQ(BIO_read(to_server_, wire.data(), static_cast<int>(wire.size())),
           static_cast<int>(wire.size()));
  to_server_ = BIO_new(BIO_s_mem());
  SSL_set0_wbio(ssl_, to_server_);  // frees the other one
  return wire;
}

std::string TlsClient::protocol() const {
  const unsigned char* name = nullptr;
  unsigned size = 0;
  SSL_get0_alpn_selected(ssl_, &name, &size);
  return size == 0 ? "" : std::string(reinterpret_cast<const char*>(name), size);
}

int TlsClient::version() const { return SSL_version(ssl_); }

std::string TlsClient::server_certificate() const {
  const Bytes pem(BIO_new(BIO_s_mem()));
  CHECK_EQ(PEM_write_bio_X509(pem.get(), SSL_get0_peer_certificate(ssl_)), 1);
  char* bytes = nullptr;
  const auto size = static_cast<size_t>(BIO_get_mem_data(pem.get(), &bytes));
  return {bytes, size};
}

std::string TlsFolder::Secret(const std::string& name, const std::string& text) {
  std::string path = zoo_.File(name, text);
  CHECK_EQ(chmod(path.c_str(), 0600), 0);
  return path;
}

TlsFiles TlsFolder::Write(const CertifiedKey& server, const std::string& client_ca,
                          const std::string& client_crl) {
  TlsFiles files;
  files.certificate = zoo_.File("server.pem", server.certificate);
  files.key = Secret("server.key", server.key);
  if (!client_ca.empty()) files.client_ca = zoo_.File("client_ca.pem", client_ca);
  if (!client_crl.empty()) files.client_crl = zoo_.File("client_crl.pem", client_crl);
  return files;
}

std::shared_ptr<const TlsContext> TlsFolder::Load(const CertifiedKey& server,
                                                  const std::string& client_ca,
                                                  const std::string& client_crl) {
  auto loaded = TlsContext::Load(Write(server, client_ca, client_crl));
  CHECK(loaded.ok()) << loaded.status();
  return *std::move(loaded);
}

}  // namespace tessera::testing
