// TLS 1.3 of the gRPC port, over OpenSSL. A TlsContext has the certificate, its key and the rules
// for clients. A TlsStream is one connection's end of TLS: it turns bytes into bytes and uses no
// socket, so any pieces of the same bytes give the same result.
//
// There are no session tickets and no early data: each connection checks its client again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/door/token_bucket.h"

// Of OpenSSL, whose headers are large.
struct bio_method_st;
struct bio_st;
struct ssl_ctx_st;
struct ssl_st;

namespace tessera {

// See TlsConfig in config.proto. Empty: not given.
struct TlsFiles {
  std::string certificate;
  std::string key;
  std::string client_ca;
  std::string client_crl;
  // With client_ca: whether a client may connect without a certificate, because it has a token.
  bool certificate_is_optional = false;

  bool enabled() const { return !certificate.empty(); }
  friend bool operator==(const TlsFiles&, const TlsFiles&) = default;
};

// Immutable; any thread.
class TlsContext final {
 public:
  // Reads the files. Errors name the file and say what to change; they contain nothing of a key.
  static absl::StatusOr<std::shared_ptr<const TlsContext>> Load(const TlsFiles& files);
  ~TlsContext();
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;

 private:
  friend class TlsStream;
  TlsContext();

  ssl_ctx_st* context_ = nullptr;
  bio_method_st* bytes_ = nullptr;  // how OpenSSL reads and writes a TlsStream's bytes
};

// One connection. One thread.
class TlsStream final {
 public:
  enum class State {
    kHandshake,
    kOpen,
    kEnded,   // the client has said that it sends no more; bytes may still be sent to it
    kFailed,  // error() says why; nothing may be received or sent
  };
  // What Receive adds to the number of bytes that it is given, at most: a record that arrived in
  // part before.
  static constexpr size_t kMaxRecordBytes = 17 << 10;

  TlsStream(std::shared_ptr<const TlsContext> context, int64_t now_us);
  ~TlsStream();
  TlsStream(const TlsStream&) = delete;
  TlsStream& operator=(const TlsStream&) = delete;

  // Takes bytes of the client. Writes what they decrypt to into `plain` and returns its size;
  // appends to *out the bytes that must be sent to the client: the handshake's answers and alerts.
  // REQUIRES: state() is kHandshake or kOpen; `plain` has wire.size() + kMaxRecordBytes bytes.
  size_t Receive(absl::string_view wire, char* plain, std::string* out, int64_t now_us);
  // Encrypts bytes for the client and appends the result to *out. REQUIRES: state() is kOpen or
  // kEnded.
  void Send(absl::string_view plain, std::string* out);
  // Appends the message that the server sends no more. Nothing if the handshake is not over.
  void End(std::string* out);

  State state() const { return state_; }
  // What went wrong, e.g. "certificate has expired". Has no secrets.
  const std::string& error() const { return error_; }
  // The subject alternative names of the client's certificate, whose signature has been checked:
  // each name as it is ("client.example.com", "10.0.0.1") and with its kind ("DNS:...", "URI:...",
  // "IP:...", "email:..."). Empty: the client has presented none. REQUIRES: state() is kOpen.
  std::vector<std::string> ClientCertificateNames() const;

 private:
  static int ReadWire(bio_st* bio, char* out, int size);
  static int WriteWire(bio_st* bio, const char* bytes, int size);
  static void OnMessage(int is_written, int version, int type, const void* bytes, size_t size,
                        ssl_st* ssl, void* stream);
  friend class TlsContext;

  void Fail(int result);

  const std::shared_ptr<const TlsContext> context_;
  ssl_st* ssl_ = nullptr;
  State state_ = State::kHandshake;
  std::string error_;
  // Handshake messages after the handshake: a client may change its keys now and then.
  TokenBucket messages_;
  int64_t now_us_ = 0;
  bool has_too_many_messages_ = false;
  // During a call: the bytes that OpenSSL has not read yet, and where it writes.
  absl::string_view wire_;
  std::string* out_ = nullptr;
};

}  // namespace tessera
