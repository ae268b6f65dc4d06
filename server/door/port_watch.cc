#include "server/door/port_watch.h"

#include <netdb.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/string_view.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "server/config/net.h"
#include "server/door/frame_reader.h"

namespace tessera {
namespace {

// The preface of a client and an empty SETTINGS frame.
constexpr absl::string_view kHello("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 33);

using AddressList = std::unique_ptr<addrinfo, void (*)(addrinfo*)>;

// Converts a numeric address. Returns null if it is not numeric.
AddressList Resolve(const std::string& host, int port) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) found = nullptr;
  return {found, [](addrinfo* list) {
            if (list != nullptr) freeaddrinfo(list);
          }};
}

absl::Status SystemError(const char* what) { return absl::ErrnoToStatus(errno, what); }

void SetTimeout(int fd, int64_t timeout_us) {
  timeval time = {};
  time.tv_sec = timeout_us / 1'000'000;
  time.tv_usec = timeout_us % 1'000'000;
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time));
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof(time));
}

class ThreadedPortWatch final : public PortWatch {
 public:
  explicit ThreadedPortWatch(PortWatchOptions options)
      : options_(std::move(options)), thread_([this] { Run(); }) {}
  ~ThreadedPortWatch() override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ended_ = true;
      if (fd_ >= 0) shutdown(fd_, SHUT_RDWR);  // ends the check that runs
      changed_.notify_all();
    }
    thread_.join();
  }

 private:
  void Run() {
    int32_t failures = 0;
    while (WaitForNext()) {
      const absl::Status status = Check();
      if (ended()) return;
      const bool did_answer = failures < options_.max_failures;
      failures = status.ok() ? 0 : std::min(failures + 1, options_.max_failures);
      const bool answers = failures < options_.max_failures;
      if (answers == did_answer) continue;
      const std::string address = FormatHostPort(options_.address);
      if (answers) TLOG_INFO("the gRPC port {} answers again", address);
      if (!answers) {
        TLOG_ERROR("the gRPC port {} does not answer ({}): not serving", address,
                   std::string(status.message()));
      }
      options_.report(answers);
    }
  }

  // Returns false if the watch ends.
  bool WaitForNext() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait_for(lock, std::chrono::microseconds(options_.interval_us),
                      [this] { return ended_; });
    return !ended_;
  }
  bool ended() {
    std::lock_guard<std::mutex> lock(mutex_);
    return ended_;
  }

  absl::Status Check() {
    const AddressList address = Resolve(options_.address.host, options_.address.port);
    if (address == nullptr) return absl::InternalError("the address is not numeric");
    const int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return SystemError("socket");
    SetFd(fd);
    absl::Status status = CheckWith(fd, *address);
    SetFd(-1);
    close(fd);
    return status;
  }

  void SetFd(int fd) {
    std::lock_guard<std::mutex> lock(mutex_);
    fd_ = fd;
  }

  absl::Status CheckWith(int fd, const addrinfo& address) const {
    SetTimeout(fd, options_.timeout_us);
    RETURN_IF_ERROR(Announce(fd));
    if (connect(fd, address.ai_addr, address.ai_addrlen) != 0) return SystemError("connect");
    if (send(fd, kHello.data(), kHello.size(), MSG_NOSIGNAL) !=
        static_cast<ssize_t>(kHello.size())) {
      return SystemError("send");
    }
    FrameReader reader;
    char byte = 0;
    for (size_t i = 0; i < kFrameHeaderBytes; ++i) {
      const ssize_t received = recv(fd, &byte, 1, 0);
      if (received == 0) return absl::UnavailableError("the connection was closed");
      if (received < 0) return SystemError("recv");
      absl::string_view bytes(&byte, 1);
      if (reader.Next(&bytes) != FrameReader::Event::kHeader) continue;
      if (reader.header().type == FrameType::kSettings) return absl::OkStatus();
    }
    return absl::UnavailableError("the answer is not HTTP/2");
  }

  // Binds the socket to the address that it is about to connect to, so that the address of the
  // connection is known before the connection is made.
  absl::Status Announce(int fd) const {
    const AddressList any_port = Resolve(options_.address.host, 0);
    if (any_port == nullptr) return absl::InternalError("the address is not numeric");
    if (bind(fd, any_port->ai_addr, any_port->ai_addrlen) != 0) return SystemError("bind");
    sockaddr_storage bound = {};
    socklen_t size = sizeof(bound);
    if (getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &size) != 0) {
      return SystemError("getsockname");
    }
    options_.announce(PeerFrom(bound));
    return absl::OkStatus();
  }

  const PortWatchOptions options_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;
  int fd_ = -1;  // of the check that runs
  std::thread thread_;
};

}  // namespace

std::unique_ptr<PortWatch> WatchPort(PortWatchOptions options) {
  return std::make_unique<ThreadedPortWatch>(std::move(options));
}

}  // namespace tessera
