#include "server/door/door.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "server/config/listener.h"
#include "server/config/net.h"
#include "server/door/client_names.h"
#include "server/door/connection_table.h"
#include "server/door/descriptors.h"
#include "server/door/token_bucket.h"

namespace tessera {
namespace {

constexpr int64_t kTickUs = 1'000'000;  // interval of the checks of slow clients
constexpr int64_t kRetryUs = 50'000;    // pause of accepting after the system refused a socket
constexpr int64_t kLogIntervalUs = 10'000'000;
constexpr int64_t kDefaultMaxConnections = 16'384;
constexpr int kMaxEvents = 256;
// Connections whose TLS handshake is not over. Each takes about 75 KiB, and up to 240 KiB if the
// client wants it: OpenSSL allocates what nine bytes of a client announce.
constexpr int64_t kMaxHandshakes = 256;
constexpr int kMaxAccepts = 64;  // connections that are accepted between two rounds of moving bytes

// gRPC needs time to free streams that end before they are answered. When clients abandon more
// streams than this, or when more than kFreeIncoming requests have arrived in part, the door is
// under pressure: it reads little at a time, and it pauses each connection that has abandoned many
// streams lately, and each with more than kFreeStreams requests that have arrived in part. Paused
// connections continue one by one.
constexpr double kAbandonedPerSecond = 1000;
constexpr double kAbandonedBurst = 1024;
constexpr int64_t kFreeIncoming = 1024;
constexpr int64_t kFreeStreams = 8;
constexpr int64_t kTrickleUs = 50'000;
constexpr size_t kCarefulBytes = 1 << 10;

// Epoll reports a number: a connection's number times two, plus which side. Connections are
// numbered from kFirstId, so that lower numbers are the door's own descriptors.
constexpr uint64_t kFirstId = 1024;
constexpr uint64_t kWakeKey = 0;
constexpr uint64_t kListenKey = 1;
uint64_t ClientKey(uint64_t id) { return 2 * id; }
uint64_t ServerKey(uint64_t id) { return 2 * id + 1; }

// Writes one line for each reason in ten seconds at most, with the number of connections since the
// last line.
class CloseLog final {
 public:
  // `detail`: what more is known about this connection; may be empty.
  void Add(CloseReason reason, const std::string& peer, const std::string& detail, int64_t now_us) {
    Line& line = lines_[static_cast<size_t>(reason)];
    ++line.count;
    if (line.last_us != 0 && now_us - line.last_us < kLogIntervalUs) return;
    TLOG_WARN("{} {} connections, the last from {}{}: {}", IsRefusal(reason) ? "refused" : "closed",
              line.count, peer, detail.empty() ? "" : absl::StrCat(" (", detail, ")"),
              CloseReasonText(reason));
    line = {0, now_us};
  }

 private:
  struct Line {
    int64_t count = 0;
    int64_t last_us = 0;
  };
  std::array<Line, kNumCloseReasons> lines_;
};

std::string DrawScope() {
  std::random_device random;
  return absl::StrFormat("%08x%08x", random(), random());
}

bool NoDescriptors(int error) { return error == EMFILE || error == ENFILE; }

class EpollDoor final : public Door {
 public:
  EpollDoor(const DoorOptions& options, Listener listener, const Clock* clock, DoorStats* stats)
      : options_(options),
        listener_(std::move(listener)),
        clock_(clock),
        stats_(stats),
        scope_(DrawScope()),
        tls_(options.tls),
        abandoned_(kAbandonedPerSecond, kAbandonedBurst, clock->NowUs()) {
    HostPort bound = options.listen;
    bound.port = listener_.port();
    address_ = FormatHostPort(bound);
    local_ = listener_.local_address();
  }
  ~EpollDoor() override {
    Stop(0);
    for (const int fd : {epoll_, wake_, spare_}) {
      if (fd >= 0) close(fd);
    }
  }

  absl::Status Open() {
    epoll_ = epoll_create1(EPOLL_CLOEXEC);
    wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    spare_ = OpenSpare();
    if (epoll_ < 0 || wake_ < 0 || spare_ < 0) return TooFewDescriptors();
    const int64_t limit = RaiseDescriptorLimit();
    const int64_t fits = ConnectionsWithin(limit, NumOpenDescriptors());
    if (fits < 1) return TooFewDescriptors();
    max_connections_ =
        std::min(fits, options_.max_connections > 0 ? int64_t{options_.max_connections}
                                                    : kDefaultMaxConnections);
    max_per_address_ = options_.max_connections_per_address > 0
                           ? options_.max_connections_per_address
                           : std::max<int64_t>(1, max_connections_ / 2);
    if (max_connections_ < options_.max_connections) {
      TLOG_WARN("limits.max_connections is {}, but {} descriptors permit {}; raise ulimit -n",
                options_.max_connections, limit, max_connections_);
    }
    Watch(wake_, EPOLLIN, kWakeKey);
    for (const int fd : listener_.fds()) Watch(fd, EPOLLIN, kListenKey);
    return absl::OkStatus();
  }

  const std::string& address() const override { return address_; }
  const HostPort& local_address() const override { return local_; }

  void Start(Deliver deliver) override {
    deliver_ = std::move(deliver);
    thread_ = std::thread([this] { Run(); });
  }

  void SetTls(std::shared_ptr<const TlsContext> tls) override {
    std::lock_guard<std::mutex> lock(mutex_);
    tls_ = std::move(tls);
  }

  void ExpectProbe(const PeerAddress& probe) override {
    std::lock_guard<std::mutex> lock(mutex_);
    probe_ = probe;
  }

  void StopAccepting() override {
    std::unique_lock<std::mutex> lock(mutex_);
    stop_accepting_ = true;
    if (!thread_.joinable()) return listener_.Close();
    Wake();
    changed_.wait(lock, [this] { return port_closed_; });
  }

  void Stop(int64_t grace_us) override {
    StopAccepting();
    if (!thread_.joinable()) return;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      end_us_ = clock_->NowUs() + grace_us;
    }
    Wake();
    thread_.join();
  }

 private:
  using Entry = ConnectionTable::Entry;

  static int OpenSpare() { return open("/dev/null", O_RDONLY | O_CLOEXEC); }
  static absl::Status TooFewDescriptors() {
    return absl::ResourceExhaustedError(
        "--listen: the limit of descriptors leaves none for connections; raise ulimit -n");
  }

  void Wake() const {
    const uint64_t one = 1;
    (void)!write(wake_, &one, sizeof(one));
  }

  void Watch(int fd, uint32_t events, uint64_t key) const {
    epoll_event event = {};
    event.events = events;
    event.data.u64 = key;
    if (epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) != 0) {
      CHECK(false) << "epoll_ctl: " << std::strerror(errno);
    }
  }

  // Changes the events that epoll reports. A socket without events is removed, because epoll
  // reports a hang-up for each socket that it has.
  void Rewatch(int fd, uint32_t wanted, uint64_t key, uint32_t* registered) const {
    if (fd < 0 || wanted == *registered) return;
    epoll_event event = {};
    event.events = wanted;
    event.data.u64 = key;
    const int change = *registered == 0 ? EPOLL_CTL_ADD
                       : wanted == 0    ? EPOLL_CTL_DEL
                                        : EPOLL_CTL_MOD;
    if (epoll_ctl(epoll_, change, fd, &event) != 0) {
      CHECK(false) << "epoll_ctl: " << std::strerror(errno);
    }
    *registered = wanted;
  }

  void Run() {
    std::array<epoll_event, kMaxEvents> events;
    while (!Ended()) {
      const int count = epoll_wait(epoll_, events.data(), kMaxEvents, TimeoutMs());
      now_us_ = clock_->NowUs();
      OnEvents({events.data(), static_cast<size_t>(std::max(0, count))});
      OnTime();
    }
    while (!table_.all().empty()) Remove(table_.all().begin()->first);
    listener_.Close();
  }

  // Follows the requests of other threads. Returns true if the thread must end.
  bool Ended() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (stop_accepting_ && !port_closed_) {
      listener_.Close();
      while (!handshakes_.empty()) Remove(handshakes_.front());  // gRPC takes no more connections
      port_closed_ = true;
      changed_.notify_all();
    }
    ending_ = end_us_.has_value();
    return ending_ && (table_.all().empty() || clock_->NowUs() >= *end_us_);
  }

  int TimeoutMs() const {
    if (retry_us_ != 0 || ending_ || !paused_.empty()) return static_cast<int>(kRetryUs / 1000);
    return table_.all().empty() ? -1 : static_cast<int>(kTickUs / 1000);
  }

  // A step of a handshake takes about a millisecond, and several with a long chain of client
  // certificates; all other events take less. So the events of handshakes come last, and only one
  // of them: epoll reports the others again. Handshakes take turns in the order of their keys.
  void OnEvents(absl::Span<const epoll_event> events) {
    const epoll_event* handshake = nullptr;
    const auto turn = [this](const epoll_event& event) {  // 0: the next key; wraps around
      return event.data.u64 - last_handshake_key_ - 1;
    };
    for (const epoll_event& event : events) {
      const Entry* const entry = table_.Find(event.data.u64 / 2);
      if (entry == nullptr || !entry->connection->in_handshake()) {
        OnEvent(event);
      } else if (handshake == nullptr || turn(event) < turn(*handshake)) {
        handshake = &event;
      }
    }
    if (handshake == nullptr) return;
    last_handshake_key_ = handshake->data.u64;
    OnEvent(*handshake);
  }

  void OnEvent(const epoll_event& event) {
    const uint64_t key = event.data.u64;
    if (key == kListenKey) return Accept();
    if (key == kWakeKey) {
      uint64_t ignored = 0;
      (void)!read(wake_, &ignored, sizeof(ignored));
      return;
    }
    const uint64_t id = key / 2;
    Entry* const entry = table_.Find(id);
    if (entry == nullptr) return;  // an earlier event has closed the connection
    Connection& connection = *entry->connection;
    const bool careful = pressed_ || connection.guard().abandons_often(now_us_);
    const size_t max_bytes = careful ? kCarefulBytes : kChunkBytes;
    const Connection::Result result = key == ClientKey(id)
                                          ? connection.OnClient(event.events, max_bytes, now_us_)
                                          : connection.OnServer(event.events, now_us_);
    const bool did_read = key == ClientKey(id) && (event.events & EPOLLIN) != 0;
    AfterStep(id, entry, result, did_read);
  }

  // Only a connection whose client was read is paused: one that has just been continued must be
  // read before it is paused again.
  void AfterStep(uint64_t id, Entry* entry, Connection::Result result, bool did_read) {
    Connection& connection = *entry->connection;
    if (result == Connection::Result::kGuarded) return End(id, connection.close_reason());
    if (result == Connection::Result::kGone) return Remove(id);
    if (entry->undelivered >= 0 && !connection.in_handshake()) GiveToGrpc(id, entry);
    if (connection.server_fd() < 0) entry->server_events = 0;
    table_.Update(id, entry);
    UpdatePressure();
    const FrameGuard& guard = connection.guard();
    const bool presses = guard.abandons_often(now_us_) || guard.num_incoming() > kFreeStreams;
    if (did_read && pressed_ && presses) Pause(id, &connection);
    Rewatch(connection.client_fd(), connection.client_events(), ClientKey(id),
            &entry->client_events);
    Rewatch(connection.server_fd(), connection.server_events(), ServerKey(id),
            &entry->server_events);
    if (table_.incoming_bytes() > options_.max_incoming_bytes) {
      End(table_.LargestIncoming(), CloseReason::kIncomingBytes);
    }
  }

  // Gives the connection to gRPC.
  void GiveToGrpc(uint64_t id, Entry* entry) {
    handshakes_.remove(id);
    if (options_.client_names != nullptr) {
      std::vector<std::string> names = entry->connection->ClientCertificateNames();
      if (!names.empty()) options_.client_names->Add(id, std::move(names));
    }
    deliver_(std::exchange(entry->undelivered, -1));
  }

  void UpdatePressure() {
    abandoned_.Force(static_cast<double>(table_.TakeAbandoned()), now_us_);
    pressed_ = abandoned_.InDebt(now_us_) || table_.num_incoming() > kFreeIncoming;
  }

  void Pause(uint64_t id, Connection* connection) {
    if (connection->paused()) return;
    connection->SetPaused(true, now_us_);
    paused_.push_back(id);
  }

  // Lets one paused connection continue. Under pressure by requests that have arrived in part, one
  // continues every kTrickleUs, because what it sends may complete its requests.
  void Unpause() {
    UpdatePressure();
    const bool wait = abandoned_.InDebt(now_us_) || now_us_ - last_unpause_us_ < kTrickleUs;
    if (pressed_ && wait) return;
    last_unpause_us_ = now_us_;
    while (!paused_.empty()) {
      const uint64_t id = paused_.front();
      paused_.pop_front();
      Entry* const entry = table_.Find(id);
      if (entry == nullptr) continue;
      entry->connection->SetPaused(false, now_us_);
      return AfterStep(id, entry, Connection::Result::kOpen, false);
    }
  }

  void Accept() {
    for (int i = 0; i < kMaxAccepts; ++i) {
      bool accepted = false;
      for (const int listening : listener_.fds()) accepted |= AcceptFrom(listening);
      if (!accepted) return;
    }
  }

  // Accepts one connection. Returns false if there is none, or if the system has no room for one.
  bool AcceptFrom(int listening) {
    sockaddr_storage address = {};
    socklen_t size = sizeof(address);
    const int fd = accept4(listening, reinterpret_cast<sockaddr*>(&address), &size,
                           SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      Admit(fd, PeerFrom(address));
      return true;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) return false;
    if (NoDescriptors(errno)) return RefuseWithSpare(listening);
    if (errno == ENOBUFS || errno == ENOMEM) {
      PauseAccepting();
      return false;
    }
    return true;  // the client gave up, or its network failed
  }

  // Without a free descriptor, the spare one is used to accept a connection and to close it, so
  // that clients do not wait for a server that cannot accept them.
  bool RefuseWithSpare(int listening) {
    if (spare_ >= 0) close(spare_);
    sockaddr_storage address = {};
    socklen_t size = sizeof(address);
    const int fd = accept4(listening, reinterpret_cast<sockaddr*>(&address), &size, SOCK_CLOEXEC);
    if (fd >= 0) {
      Count(CloseReason::kNoDescriptors, PeerFrom(address));
      close(fd);
    }
    spare_ = OpenSpare();
    if (fd >= 0 && spare_ >= 0) return true;
    PauseAccepting();
    return false;
  }

  void PauseAccepting() {
    if (retry_us_ == 0) {
      for (const int fd : listener_.fds()) epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr);
    }
    retry_us_ = now_us_ + kRetryUs;
  }

  std::unique_ptr<TlsStream> NewTls() {
    std::shared_ptr<const TlsContext> tls;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      tls = tls_;
    }
    return tls == nullptr ? nullptr : std::make_unique<TlsStream>(std::move(tls), now_us_);
  }

  bool TakeProbe(const PeerAddress& peer) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!probe_ || !(*probe_ == peer)) return false;
    probe_.reset();
    return true;
  }

  CloseReason MakeRoom(const PeerAddress& peer) {
    CloseReason full = CloseReason::kNone;
    uint64_t idle = 0;
    if (table_.SizeOf(peer.network) >= max_per_address_) {
      full = CloseReason::kTooManyOfAddress;
      idle = table_.OldestIdleOf(peer.network);
    } else if (table_.size() >= max_connections_) {
      full = CloseReason::kTooManyConnections;
      idle = table_.OldestIdle();
    }
    if (full == CloseReason::kNone || idle == 0) return full;
    End(idle, CloseReason::kIdle);
    return CloseReason::kNone;
  }

  void Admit(int fd, const PeerAddress& peer) {
    const bool is_probe = TakeProbe(peer);
    CloseReason reason = is_probe ? CloseReason::kNone : MakeRoom(peer);
    absl::StatusOr<SocketPair> pair;
    if (reason == CloseReason::kNone) {
      pair = MakeNamedPair(scope_, next_id_, peer);
      if (!pair.ok()) reason = CloseReason::kNoDescriptors;
    }
    if (reason != CloseReason::kNone) {
      Count(reason, peer);
      close(fd);
      return;
    }
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    const uint64_t id = next_id_++;
    std::unique_ptr<TlsStream> tls = is_probe ? nullptr : NewTls();
    const bool has_tls = tls != nullptr;
    Entry* const entry =
        table_.Add(id,
                   std::make_unique<Connection>(fd, pair->door, peer, options_.guard, &scratch_,
                                                std::move(tls), now_us_),
                   is_probe);
    if (!is_probe) {
      stats_->accepted.Add();
      stats_->open.Add(1);
    }
    Rewatch(fd, EPOLLIN, ClientKey(id), &entry->client_events);
    Rewatch(pair->door, EPOLLIN, ServerKey(id), &entry->server_events);
    entry->undelivered = pair->server;
    if (!has_tls) return GiveToGrpc(id, entry);
    handshakes_.push_back(id);
    if (static_cast<int64_t>(handshakes_.size()) > kMaxHandshakes) {
      End(HandshakeToClose(), CloseReason::kHandshakes);
    }
  }

  // The oldest handshake of the network that has the most, so that one network does not close the
  // handshakes of others.
  uint64_t HandshakeToClose() {
    absl::flat_hash_map<absl::string_view, int> counts;
    int most = 0;
    for (const uint64_t id : handshakes_) {
      most = std::max(most, ++counts[table_.Find(id)->connection->peer().network]);
    }
    return *std::find_if(handshakes_.begin(), handshakes_.end(), [&](uint64_t id) {
      return counts[table_.Find(id)->connection->peer().network] == most;
    });
  }

  void Count(CloseReason reason, const PeerAddress& peer, const std::string& detail = "") {
    stats_->closed[static_cast<size_t>(reason)].Add();
    log_.Add(reason, FormatPeer(peer), detail, now_us_);
  }

  // Closes a connection for a reason that the client is told.
  void End(uint64_t id, CloseReason reason) {
    Entry* const entry = table_.Find(id);
    Count(reason, entry->connection->peer(), entry->connection->close_detail());
    if (entry->undelivered < 0) entry->connection->SendGoAway(reason);
    Remove(id);
  }

  void Remove(uint64_t id) {
    const Entry& entry = *table_.Find(id);
    if (!entry.is_probe) stats_->open.Add(-1);
    if (entry.undelivered >= 0) {
      handshakes_.remove(id);
      close(entry.undelivered);
    } else if (options_.client_names != nullptr) {
      options_.client_names->Remove(id);
    }
    table_.Remove(id);  // closing the sockets removes them from epoll
  }

  void OnTime() {
    if (retry_us_ != 0 && now_us_ >= retry_us_) {
      retry_us_ = 0;
      for (const int fd : listener_.fds()) Watch(fd, EPOLLIN, kListenKey);
    }
    if (!paused_.empty()) Unpause();
    if (now_us_ - last_tick_us_ < kTickUs) return;
    last_tick_us_ = now_us_;
    std::vector<uint64_t> ids;
    ids.reserve(table_.all().size());
    for (const auto& [id, unused] : table_.all()) ids.push_back(id);
    for (const uint64_t id : ids) {
      Entry* const entry = table_.Find(id);
      if (entry != nullptr) AfterStep(id, entry, entry->connection->OnTime(now_us_), false);
    }
  }

  const DoorOptions options_;
  Listener listener_;
  const Clock* const clock_;
  DoorStats* const stats_;
  const std::string scope_;
  std::string address_;
  HostPort local_;
  int64_t max_connections_ = 0;
  int64_t max_per_address_ = 0;
  int epoll_ = -1;
  int wake_ = -1;
  int spare_ = -1;  // a descriptor to close when there is no other
  Deliver deliver_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::shared_ptr<const TlsContext> tls_;  // of new connections; guarded by mutex_
  std::optional<PeerAddress> probe_;       // guarded by mutex_
  bool stop_accepting_ = false;            // guarded by mutex_
  bool port_closed_ = false;               // guarded by mutex_
  std::optional<int64_t> end_us_;          // guarded by mutex_

  // Used by the thread only.
  ConnectionTable table_;
  CloseLog log_;
  TokenBucket abandoned_;
  bool pressed_ = false;
  int64_t last_unpause_us_ = 0;
  std::deque<uint64_t> paused_;  // may contain connections that have ended
  uint64_t next_id_ = kFirstId;
  int64_t now_us_ = 0;
  int64_t last_tick_us_ = 0;
  bool ending_ = false;   // the value of end_us_ is set
  int64_t retry_us_ = 0;  // not 0: accepting is paused until then
  // Connections whose handshake is not over, the oldest first.
  std::list<uint64_t> handshakes_;
  uint64_t last_handshake_key_ = 0;  // of the last event of a handshake
  ConnectionScratch scratch_;
  std::thread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Door>> OpenDoor(const DoorOptions& options, const Clock* clock,
                                               DoorStats* stats) {
  ASSIGN_OR_RETURN(Listener listener, Listener::Open("--listen", options.listen));
  auto door = std::make_unique<EpollDoor>(options, std::move(listener), clock, stats);
  RETURN_IF_ERROR(door->Open());
  return door;
}

}  // namespace tessera
