#include "server/door/tls.h"

#include <arpa/inet.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <functional>
#include <iterator>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/foreign_file.h"
#include "kernels/base/log.h"
#include "kernels/base/secret_file.h"
#include "kernels/base/status.h"

namespace tessera {
namespace {

constexpr int64_t kMaxFileBytes = 4 << 20;
// Of all certificates that a client sends, in bytes: three large ones fit. OpenSSL reads them
// before it knows whether it trusts the client. Each takes 0.25 ms, and 4 KiB while the client is
// connected.
constexpr long kMaxChainBytes = 10 << 10;
constexpr double kMessagesPerSecond = 1;
constexpr double kMessageBurst = 32;

template <class T, void (*kFree)(T*)>
struct Deleter {
  void operator()(T* object) const { kFree(object); }
};
using Certificate = std::unique_ptr<X509, Deleter<X509, X509_free>>;
using RevocationList = std::unique_ptr<X509_CRL, Deleter<X509_CRL, X509_CRL_free>>;
using PrivateKey = std::unique_ptr<EVP_PKEY, Deleter<EVP_PKEY, EVP_PKEY_free>>;
using Names = std::unique_ptr<GENERAL_NAMES, Deleter<GENERAL_NAMES, GENERAL_NAMES_free>>;
using NameStack = STACK_OF(X509_NAME);

struct FreeBio {
  void operator()(BIO* bio) const { BIO_free(bio); }
};
using Bytes = std::unique_ptr<BIO, FreeBio>;

Bytes Reader(const std::string& text) {
  return Bytes(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// Answers OpenSSL's question for a passphrase: there is none. Without this, OpenSSL would ask on
// the terminal.
int NoPassphrase(char*, int, int, void*) { return 0; }

// The reason of OpenSSL's last error on this thread, e.g. "key values mismatch". Clears its errors.
std::string TakeReason() {
  const unsigned long error = ERR_peek_last_error();
  ERR_clear_error();
  const char* const reason = error == 0 ? nullptr : ERR_reason_error_string(error);
  return reason == nullptr ? "unknown error" : reason;
}

absl::Status FileError(const char* key, const std::string& path, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(key, ": ", path, ": ", why));
}

absl::Status WithKey(const char* key, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(key, ": ", status.message()));
}

absl::StatusOr<std::string> ReadPem(const char* key, const std::string& path) {
  auto text = ReadForeignFile(path, {.max_bytes = kMaxFileBytes, .roots = {}});
  if (!text.ok()) return WithKey(key, text.status());
  return text;
}

// Calls `take` with each certificate of a PEM file. At least one is required.
absl::Status ForEachCertificate(const char* key, const std::string& path,
                                const std::function<bool(X509*)>& take) {
  ASSIGN_OR_RETURN(const std::string text, ReadPem(key, path));
  const Bytes reader = Reader(text);
  int count = 0;
  while (const auto certificate =
             Certificate(PEM_read_bio_X509(reader.get(), nullptr, &NoPassphrase, nullptr))) {
    ++count;
    if (!take(certificate.get())) return FileError(key, path, TakeReason());
  }
  const bool is_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  const std::string reason = TakeReason();
  if (!is_end) return FileError(key, path, absl::StrCat("is damaged (", reason, ")"));
  if (count > 0) return absl::OkStatus();
  return FileError(key, path, "has no certificate; give a PEM file (-----BEGIN CERTIFICATE-----)");
}

absl::Status UseCertificate(SSL_CTX* context, const std::string& path) {
  bool is_first = true;
  return ForEachCertificate("security.tls.certificate", path, [&](X509* certificate) {
    if (!std::exchange(is_first, false)) return SSL_CTX_add1_chain_cert(context, certificate) == 1;
    return SSL_CTX_use_certificate(context, certificate) == 1;
  });
}

absl::Status UseKey(SSL_CTX* context, const TlsFiles& files) {
  constexpr char kKey[] = "security.tls.key";
  auto text = ReadSecretFile(files.key, kMaxFileBytes);
  if (!text.ok()) return WithKey(kKey, text.status());
  const PrivateKey key(
      PEM_read_bio_PrivateKey(Reader(*text).get(), nullptr, &NoPassphrase, nullptr));
  OPENSSL_cleanse(text->data(), text->size());
  if (key == nullptr) {
    ERR_clear_error();
    return FileError(kKey, files.key,
                     "has no private key without a passphrase; give a PEM file, e.g. the output of "
                     "`openssl pkey`");
  }
  if (SSL_CTX_use_PrivateKey(context, key.get()) == 1 && SSL_CTX_check_private_key(context) == 1) {
    return absl::OkStatus();
  }
  return FileError(kKey, files.key,
                   absl::StrCat("does not belong to ", files.certificate, " (", TakeReason(), ")"));
}

absl::Status UseClientCa(SSL_CTX* context, const TlsFiles& files) {
  X509_STORE* const store = SSL_CTX_get_cert_store(context);
  NameStack* const names = sk_X509_NAME_new_null();
  SSL_CTX_set_client_CA_list(context, names);  // takes the ownership
  absl::Status status =
      ForEachCertificate("security.tls.client_ca", files.client_ca, [&](X509* certificate) {
        X509_NAME* const name = X509_NAME_dup(X509_get_subject_name(certificate));
        return sk_X509_NAME_push(names, name) > 0 && X509_STORE_add_cert(store, certificate) == 1;
      });
  const int optional = files.certificate_is_optional ? 0 : SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER | optional, nullptr);
  return status;
}

absl::Status UseCrl(SSL_CTX* context, const std::string& path) {
  constexpr char kKey[] = "security.tls.client_crl";
  ASSIGN_OR_RETURN(const std::string text, ReadPem(kKey, path));
  X509_STORE* const store = SSL_CTX_get_cert_store(context);
  const Bytes reader = Reader(text);
  int count = 0;
  while (const auto list =
             RevocationList(PEM_read_bio_X509_CRL(reader.get(), nullptr, nullptr, nullptr))) {
    ++count;
    if (X509_STORE_add_crl(store, list.get()) != 1) return FileError(kKey, path, TakeReason());
  }
  const bool is_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  const std::string reason = TakeReason();
  if (!is_end) return FileError(kKey, path, absl::StrCat("is damaged (", reason, ")"));
  if (count == 0) {
    return FileError(kKey, path, "has no list; give a PEM file (-----BEGIN X509 CRL-----)");
  }
  X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
  return absl::OkStatus();
}

// gRPC's clients offer h2. A client that offers other protocols only is refused.
int SelectHttp2(SSL*, const unsigned char** out, unsigned char* out_size,
                const unsigned char* offered, unsigned int offered_size, void*) {
  static constexpr unsigned char kHttp2[] = {2, 'h', '2'};
  unsigned char* selected = nullptr;
  if (SSL_select_next_proto(&selected, out_size, kHttp2, sizeof(kHttp2), offered, offered_size) !=
      OPENSSL_NPN_NEGOTIATED) {
    return SSL_TLSEXT_ERR_ALERT_FATAL;
  }
  *out = selected;
  return SSL_TLSEXT_ERR_OK;
}

long ControlWire(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }

// The text of a name of OpenSSL. Empty if it has a byte 0, with which names have been forged.
std::string TextOf(const ASN1_STRING* string) {
  const auto* const data = reinterpret_cast<const char*>(ASN1_STRING_get0_data(string));
  std::string text(data, static_cast<size_t>(ASN1_STRING_length(string)));
  return text.find('\0') == std::string::npos ? text : "";
}

std::string AddressText(const ASN1_OCTET_STRING* address) {
  const int size = ASN1_STRING_length(address);
  if (size != 4 && size != 16) return "";
  char text[INET6_ADDRSTRLEN];
  const int family = size == 4 ? AF_INET : AF_INET6;
  return inet_ntop(family, ASN1_STRING_get0_data(address), text, sizeof(text)) == nullptr ? ""
                                                                                          : text;
}

constexpr const char* kKinds[] = {"DNS:", "URI:", "email:", "IP:"};

// A name that looks like one with its kind counts with its own kind only.
bool StartsWithKind(absl::string_view name) {
  return std::any_of(std::begin(kKinds), std::end(kKinds),
                     [name](const char* kind) { return absl::StartsWith(name, kind); });
}

void AddName(const GENERAL_NAME& name, std::vector<std::string>* names) {
  const auto add = [names](const char* kind, const std::string& text) {
    if (text.empty()) return;
    if (!StartsWithKind(text)) names->push_back(text);
    names->push_back(absl::StrCat(kind, text));
  };
  switch (name.type) {
    case GEN_DNS:
      return add(kKinds[0], TextOf(name.d.dNSName));
    case GEN_URI:
      return add(kKinds[1], TextOf(name.d.uniformResourceIdentifier));
    case GEN_EMAIL:
      return add(kKinds[2], TextOf(name.d.rfc822Name));
    case GEN_IPADD:
      return add(kKinds[3], AddressText(name.d.iPAddress));
    default:
      return;
  }
}

}  // namespace

TlsContext::TlsContext()
    : context_(SSL_CTX_new(TLS_server_method())),
      bytes_(BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "tessera")) {
  CHECK(context_ != nullptr && bytes_ != nullptr);
  BIO_meth_set_read(bytes_, &TlsStream::ReadWire);
  BIO_meth_set_write(bytes_, &TlsStream::WriteWire);
  BIO_meth_set_ctrl(bytes_, &ControlWire);
  SSL_CTX_set_min_proto_version(context_, TLS1_3_VERSION);
  SSL_CTX_set_options(context_, SSL_OP_NO_TICKET);
  SSL_CTX_set_num_tickets(context_, 0);
  SSL_CTX_set_max_cert_list(context_, kMaxChainBytes);
  SSL_CTX_set_session_cache_mode(context_, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_mode(context_, SSL_MODE_RELEASE_BUFFERS);  // idle connections hold no buffers
  SSL_CTX_set_alpn_select_cb(context_, &SelectHttp2, nullptr);
}

TlsContext::~TlsContext() {
  SSL_CTX_free(context_);
  BIO_meth_free(bytes_);
}

absl::StatusOr<std::shared_ptr<const TlsContext>> TlsContext::Load(const TlsFiles& files) {
  ERR_clear_error();
  std::shared_ptr<TlsContext> made(new TlsContext());
  RETURN_IF_ERROR(UseCertificate(made->context_, files.certificate));
  RETURN_IF_ERROR(UseKey(made->context_, files));
  if (!files.client_ca.empty()) RETURN_IF_ERROR(UseClientCa(made->context_, files));
  if (!files.client_crl.empty()) RETURN_IF_ERROR(UseCrl(made->context_, files.client_crl));
  return made;
}

TlsStream::TlsStream(std::shared_ptr<const TlsContext> context, int64_t now_us)
    : context_(std::move(context)),
      ssl_(SSL_new(context_->context_)),
      messages_(kMessagesPerSecond, kMessageBurst, now_us) {
  BIO* const bytes = BIO_new(context_->bytes_);
  CHECK(ssl_ != nullptr && bytes != nullptr);
  BIO_set_data(bytes, this);
  BIO_set_init(bytes, 1);
  SSL_set_bio(ssl_, bytes, bytes);  // takes the ownership
  SSL_set_msg_callback(ssl_, &TlsStream::OnMessage);
  SSL_set_msg_callback_arg(ssl_, this);
  SSL_set_accept_state(ssl_);
}

TlsStream::~TlsStream() { SSL_free(ssl_); }

int TlsStream::ReadWire(BIO* bio, char* out, int size) {
  auto* const self = static_cast<TlsStream*>(BIO_get_data(bio));
  BIO_clear_retry_flags(bio);
  const size_t taken = std::min(self->wire_.size(), static_cast<size_t>(size));
  if (taken == 0 || self->has_too_many_messages_) {
    BIO_set_retry_read(bio);
    return -1;
  }
  std::copy_n(self->wire_.data(), taken, out);
  self->wire_.remove_prefix(taken);
  return static_cast<int>(taken);
}

int TlsStream::WriteWire(BIO* bio, const char* bytes, int size) {
  auto* const self = static_cast<TlsStream*>(BIO_get_data(bio));
  BIO_clear_retry_flags(bio);
  self->out_->append(bytes, static_cast<size_t>(size));
  return size;
}

void TlsStream::OnMessage(int is_written, int, int type, const void*, size_t, SSL*, void* stream) {
  auto* const self = static_cast<TlsStream*>(stream);
  if (is_written != 0 || type != SSL3_RT_HANDSHAKE || self->state_ != State::kOpen) return;
  if (!self->messages_.Take(self->now_us_)) self->has_too_many_messages_ = true;
}

void TlsStream::Fail(int result) {
  state_ = State::kFailed;
  if (has_too_many_messages_) {
    error_ = "too many changes of keys";
    return;
  }
  const long verified = SSL_get_verify_result(ssl_);
  const std::string reason = TakeReason();
  error_ = verified != X509_V_OK
               ? absl::StrCat("the client's certificate: ", X509_verify_cert_error_string(verified))
           : result == SSL_ERROR_SYSCALL ? "the connection ended"
                                         : reason;
}

size_t TlsStream::Receive(absl::string_view wire, char* plain, std::string* out, int64_t now_us) {
  CHECK(state_ == State::kHandshake || state_ == State::kOpen);
  ERR_clear_error();
  wire_ = wire;
  out_ = out;
  now_us_ = now_us;
  size_t size = 0;
  if (state_ == State::kHandshake) {
    const int result = SSL_do_handshake(ssl_);
    if (result == 1) {
      state_ = State::kOpen;
    } else if (const int error = SSL_get_error(ssl_, result); error != SSL_ERROR_WANT_READ) {
      Fail(error);
    }
  }
  const size_t capacity = wire.size() + kMaxRecordBytes;
  while (state_ == State::kOpen) {
    size_t received = 0;
    const int result = SSL_read_ex(ssl_, plain + size, capacity - size, &received);
    if (result == 1) {
      size += received;
      continue;
    }
    const int error = SSL_get_error(ssl_, result);
    if (error == SSL_ERROR_WANT_READ && !has_too_many_messages_) break;
    if (error == SSL_ERROR_ZERO_RETURN) {
      state_ = State::kEnded;
    } else {
      Fail(error);
    }
  }
  wire_ = {};
  out_ = nullptr;
  return size;
}

void TlsStream::Send(absl::string_view plain, std::string* out) {
  CHECK(state_ == State::kOpen || state_ == State::kEnded);
  if (plain.empty()) return;
  ERR_clear_error();
  out_ = out;
  size_t sent = 0;
  const int result = SSL_write_ex(ssl_, plain.data(), plain.size(), &sent);
  if (result != 1) Fail(SSL_get_error(ssl_, result));
  out_ = nullptr;
}

void TlsStream::End(std::string* out) {
  if (state_ != State::kOpen && state_ != State::kEnded) return;
  ERR_clear_error();
  out_ = out;
  SSL_shutdown(ssl_);
  out_ = nullptr;
}

std::vector<std::string> TlsStream::ClientCertificateNames() const {
  const X509* const certificate = SSL_get0_peer_certificate(ssl_);
  if (certificate == nullptr || SSL_get_verify_result(ssl_) != X509_V_OK) return {};
  const Names found(static_cast<GENERAL_NAMES*>(
      X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)));
  std::vector<std::string> names;
  if (found == nullptr) return names;
  for (int i = 0; i < sk_GENERAL_NAME_num(found.get()); ++i) {
    AddName(*sk_GENERAL_NAME_value(found.get(), i), &names);
  }
  return names;
}

}  // namespace tessera
