// A raw HTTP/2 client for tests of attacks: it sends any bytes and frames, valid or not, and keeps
// no rules. With TLS, it sends and reads the same bytes encrypted. It reads and drops what the
// server sends, so that the server never waits for it, unless the test says otherwise. Used on the
// test's thread; several clients may run at once.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "server/config/config.h"
#include "server/door/frame_reader.h"
#include "tests/lib/tls_client.h"

namespace tessera::testing {

// The bytes of one frame.
std::string Frame(FrameType type, uint8_t flags, uint32_t stream, absl::string_view payload = "");
// The preface of a client and an empty SETTINGS frame.
std::string Http2Hello();
// The header block of a call of a gRPC method such as "/tessera.v1.Inference/Generate".
std::string CallHeaders(const std::string& method);
// A gRPC message: its prefix, which may promise more bytes than follow, and its bytes.
std::string GrpcMessage(uint32_t promised_bytes, absl::string_view bytes);

class HostileHttp2 final {
 public:
  // Connects to HOST:PORT. Aborts the test if that fails. `tls` null: without TLS; otherwise the
  // handshake ends before the return, or is_open() is false. `tls` outlives the client.
  explicit HostileHttp2(const std::string& address, const TlsClientContext* tls = nullptr);
  ~HostileHttp2();
  HostileHttp2(const HostileHttp2&) = delete;
  HostileHttp2& operator=(const HostileHttp2&) = delete;

  // Sends all bytes. Returns false if the server has closed the connection. Waits for ten seconds
  // at most for a server that takes nothing.
  bool Send(absl::string_view bytes);
  // Sends what the server takes at once; returns the number of bytes, -1 if the connection is
  // closed. With TLS, a rest of 16 KiB at most waits for the next call.
  int64_t SendSome(absl::string_view bytes);
  // Reads until `bytes` bytes have arrived, the connection is closed or the time is over. Returns
  // what arrived.
  std::string Read(size_t bytes, int64_t timeout_ms = 10'000);
  // Reads and drops bytes until the server closes the connection. Returns false if it does not.
  bool WaitClosed(int64_t timeout_ms = 10'000);
  // Reads and drops bytes until a GOAWAY arrives. Returns false if none does.
  bool WaitGoAway(int64_t timeout_ms = 10'000);
  // Sends a DATA frame as soon as the windows that the server announced permit it. Acknowledges the
  // server's SETTINGS and PING frames, as gRPC then opens the windows further. Returns the
  // bytes sent, -1 if the connection is closed, 0 if the server does not open the windows in time.
  int64_t SendData(uint32_t stream, absl::string_view bytes, int64_t timeout_ms = 10'000);
  // Like Send, in records of TLS of this size.
  bool SendRecords(absl::string_view bytes, size_t record_bytes);
  // Like Send, but never encrypted.
  bool SendWire(absl::string_view bytes);
  // Changes the keys of TLS and asks the server to change its own. The result is that of Send.
  bool ChangeKeys();
  // Sends no more (FIN, after TLS has said so too), but still reads.
  void HalfClose();
  // Ends the connection with a TCP reset.
  void Reset();

  int fd() const { return fd_; }
  // The clients of the process that have TLS.
  static int64_t num_with_tls() { return num_with_tls_.load(); }
  bool is_open() const { return tls_ == nullptr || tls_->open(); }
  // The server's certificate, PEM. REQUIRES: TLS and is_open().
  std::string server_certificate() const { return tls_->server_certificate(); }
  // Why TLS has failed; empty: it has not.
  std::string tls_error() const { return tls_ == nullptr ? "" : tls_->error(); }
  // The frames and the last GOAWAY that arrived in Send and WaitClosed.
  int64_t num_frames() const { return num_frames_; }
  const std::string& go_away() const { return go_away_; }

 private:
  bool Drain();
  int64_t Receive(std::string* plain);
  int64_t SendSomeWire(absl::string_view bytes);
  int64_t SendRest();
  void Parse(absl::string_view bytes);
  void OnFrame();

  static inline std::atomic<int64_t> num_with_tls_{0};

  int fd_ = -1;
  std::unique_ptr<TlsClient> tls_;
  std::string rest_;   // encrypted, not sent yet
  std::string plain_;  // decrypted, not returned by Read yet
  FrameReader reader_;
  std::string payload_;  // of the frame that is arriving
  // Bytes of DATA that the server takes, by stream, without those that are sent; 0: the connection.
  std::map<uint32_t, int64_t> windows_ = {{0, 65'535}};
  int64_t initial_window_ = 65'535;
  int64_t num_frames_ = 0;
  std::string go_away_;
  std::string acks_;  // of the server's SETTINGS and PING frames
};

}  // namespace tessera::testing
