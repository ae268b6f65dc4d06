#include "tests/server/door_fixture.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>

#include "absl/strings/str_cat.h"

namespace tessera::testing {

void WaitFor(const char* what, const std::function<bool()>& condition) {
  for (int i = 0; i < 20'000; ++i) {
    if (condition()) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ADD_FAILURE() << "waited in vain: " << what;
}

std::string Data(uint32_t stream, size_t bytes) {
  return Frame(FrameType::kData, 0, stream, std::string(bytes, 'd'));
}

void ServerEnd::Close() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

std::string ServerEnd::Read(size_t bytes) const {
  std::string result;
  std::string piece(1 << 16, '\0');
  while (result.size() < bytes) {
    pollfd readable = {fd_, POLLIN, 0};
    if (poll(&readable, 1, 20'000) <= 0) break;
    const size_t wanted = std::min(piece.size(), bytes - result.size());
    const ssize_t received = recv(fd_, piece.data(), wanted, 0);
    if (received <= 0) break;
    result.append(piece, 0, static_cast<size_t>(received));
  }
  return result;
}

int64_t ServerEnd::SendSome(absl::string_view bytes) const {
  const ssize_t sent = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  return sent < 0 && errno == EAGAIN ? 0 : sent;
}

std::string ServerEnd::PeerName() const {
  sockaddr_un address = {};
  socklen_t size = sizeof(address);
  EXPECT_EQ(getpeername(fd_, reinterpret_cast<sockaddr*>(&address), &size), 0);
  const size_t length = size - offsetof(sockaddr_un, sun_path) - 1;
  return absl::StrCat("unix-abstract:", absl::string_view(address.sun_path + 1, length));
}

DoorFixture::DoorFixture(bool encrypted) {
  if (encrypted) tls_ = std::make_unique<TlsPair>();
}

void DoorFixture::Start(DoorOptions options, const std::string& host, const Clock* clock) {
  options.listen = {host, 0};
  if (tls_ != nullptr && options.tls == nullptr) options.tls = tls_->server;
  auto door = OpenDoor(options, clock == nullptr ? &clock_ : clock, &stats_);
  ASSERT_TRUE(door.ok()) << door.status();
  door_ = *std::move(door);
  door_->Start([this](int fd) {
    std::lock_guard<std::mutex> lock(mutex_);
    delivered_.push_back(std::make_unique<ServerEnd>(fd));
  });
}

std::unique_ptr<ServerEnd> DoorFixture::Next() {
  std::unique_ptr<ServerEnd> end;
  WaitFor("a connection", [this, &end] {
    std::lock_guard<std::mutex> lock(mutex_);
    if (delivered_.empty()) return false;
    end = std::move(delivered_.front());
    delivered_.erase(delivered_.begin());
    return true;
  });
  return end;
}

size_t DoorFixture::num_delivered() {
  std::lock_guard<std::mutex> lock(mutex_);
  return delivered_.size();
}

std::pair<std::unique_ptr<HostileHttp2>, std::unique_ptr<ServerEnd>> DoorFixture::ConnectBusy() {
  auto client = Connect();
  auto server = Next();
  const std::string call = Http2Hello() + Frame(FrameType::kHeaders, 0x5, 1, "block");
  EXPECT_TRUE(client->Send(call));
  EXPECT_EQ(server->Read(call.size()), call);
  return {std::move(client), std::move(server)};
}

}  // namespace tessera::testing
