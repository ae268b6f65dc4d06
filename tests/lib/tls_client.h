// The client's side for tests of TLS: an OpenSSL client that turns bytes into bytes, without a
// socket, and the files of a server. Owned by a test; one thread, except for TlsClientContext.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/door/tls.h"
#include "tests/lib/certificates.h"
#include "tests/lib/file_zoo.h"

namespace tessera::testing {

struct TlsClientOptions {
  std::string ca;            // PEM; the server's certificate must be signed by it
  CertifiedKey certificate;  // empty: the client has none; may have a chain
  // What the client offers (ALPN); empty: it offers nothing.
  std::vector<std::string> protocols = {"h2"};
  bool only_tls12 = false;
};

// What the clients of a test have in common. Immutable; any thread.
class TlsClientContext final {
 public:
  explicit TlsClientContext(const TlsClientOptions& options);
  ~TlsClientContext();
  TlsClientContext(const TlsClientContext&) = delete;
  TlsClientContext& operator=(const TlsClientContext&) = delete;

 private:
  friend class TlsClient;
  ssl_ctx_st* context_ = nullptr;
};

// One client. It starts with a ClientHello, which is in TakeWire().
class TlsClient final {
 public:
  explicit TlsClient(const TlsClientContext& context);
  ~TlsClient();
  TlsClient(const TlsClient&) = delete;
  TlsClient& operator=(const TlsClient&) = delete;

  // Takes bytes of the server; returns what they decrypt to.
  std::string Receive(absl::string_view wire);
  // REQUIRES: open().
  void Send(absl::string_view plain);
  // Changes the client's keys and asks the server to change its own.
  void ChangeKeys();
  // Tells the server that the client sends no more.
  void End();
  // The bytes for the server since the last call.
  std::string TakeWire();

  bool open() const { return open_; }    // the client has finished its handshake
  bool ended() const { return ended_; }  // the server has said that it sends no more
  // Why TLS has failed, e.g. "tlsv1 alert protocol version"; empty: it has not.
  const std::string& error() const { return error_; }
  // What the server has chosen of TlsClientOptions::protocols.
  std::string protocol() const;
  int version() const;
  // The server's certificate, PEM.
  std::string server_certificate() const;

 private:
  void Handshake();
  void Check(int result);

  ssl_st* ssl_ = nullptr;
  bio_st* from_server_ = nullptr;
  bio_st* to_server_ = nullptr;
  bool open_ = false;
  bool ended_ = false;
  std::string error_;
};

// The files of a server's TLS, in a temporary folder.
class TlsFolder final {
 public:
  // Writes a text as a file that only its owner may read; returns its path.
  std::string Secret(const std::string& name, const std::string& text);
  // Files with this certificate. `client_ca` and `client_crl` are PEM texts; empty: none.
  TlsFiles Write(const CertifiedKey& server, const std::string& client_ca = "",
                 const std::string& client_crl = "");
  // The same, loaded. Aborts the test on errors.
  std::shared_ptr<const TlsContext> Load(const CertifiedKey& server,
                                         const std::string& client_ca = "",
                                         const std::string& client_crl = "");
  FileZoo& zoo() { return zoo_; }

 private:
  FileZoo zoo_;
};

// What most tests need: an authority, a server that asks for a client's certificate, and a client
// that has one.
struct TlsPair {
  TestAuthority authority{"authority"};
  CertifiedKey server_key = authority.Sign("DNS:localhost,IP:127.0.0.1");
  CertifiedKey client_key = authority.Sign("DNS:client.example.com,URI:spiffe://cluster/client");
  TlsFolder folder;
  std::shared_ptr<const TlsContext> server = folder.Load(server_key, authority.pem());
  TlsClientContext client{TlsClientOptions{.ca = authority.pem(), .certificate = client_key}};
};

}  // namespace tessera::testing
