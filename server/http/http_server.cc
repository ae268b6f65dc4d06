#include "server/http/http_server.h"

#include <microhttpd.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <iterator>
#include <list>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "server/config/config.h"
#include "server/config/listener.h"
#include "server/config/net.h"

namespace tessera {
namespace {

constexpr rlim_t kShareOfFiles = 8;
constexpr rlim_t kFewestConnections = 4;
// The library stops accepting at its own limit, and then a probe would wait for others. The
// library's limit is therefore above ours: it accepts at most 10 connections before closed ones go.
constexpr size_t kLibrarySlack = 64;
constexpr size_t kConnectionBytes = 16 << 10;  // the largest request line with headers

size_t LimitOfConnections(int wanted) {
  rlimit files = {};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return static_cast<size_t>(wanted);
  const rlim_t share = std::max<rlim_t>(files.rlim_cur / kShareOfFiles, kFewestConnections);
  return static_cast<size_t>(std::min<rlim_t>(share, static_cast<rlim_t>(wanted)));
}

// The path of a request target. A target in absolute form, as proxies send it, is
// "http://HOST/path".
absl::string_view PathOf(absl::string_view target) {
  const size_t scheme = target.find("://");
  if (target.empty() || target[0] == '/' || scheme == absl::string_view::npos) return target;
  const size_t path = target.find('/', scheme + 3);
  return path == absl::string_view::npos ? "/" : target.substr(path);
}

bool IsRead(absl::string_view method) {
  return method == MHD_HTTP_METHOD_GET || method == MHD_HTTP_METHOD_HEAD;
}

void LogFromLibrary(void*, const char* format, va_list arguments) {
  char line[512];
  std::vsnprintf(line, sizeof(line), format, arguments);
  TLOG_DEBUG("http: {}", std::string(line));
}

MHD_Result Send(MHD_Connection* connection, const HttpResponse& answer) {
  MHD_Response* const response = MHD_create_response_from_buffer(
      answer.body.size(), const_cast<char*>(answer.body.data()), MHD_RESPMEM_MUST_COPY);
  if (response == nullptr) return MHD_NO;
  MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, answer.content_type.c_str());
  MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
  if (answer.code == MHD_HTTP_METHOD_NOT_ALLOWED) {
    MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
  }
  const MHD_Result queued =
      MHD_queue_response(connection, static_cast<unsigned>(answer.code), response);
  MHD_destroy_response(response);
  return queued;
}

// The open connections of one socket. The library reports them on the socket's thread.
class ConnectionTable {
 public:
  struct Entry;
  using List = std::list<Entry>;
  struct Entry {
    int fd = -1;
    List* list = nullptr;
    List::iterator place;
  };

  explicit ConnectionTable(size_t max_connections) : max_connections_(max_connections) {}

  Entry* Open(int fd) {
    waiting_.push_back({fd, &waiting_, {}});
    Entry& entry = waiting_.back();
    entry.place = std::prev(waiting_.end());
    if (waiting_.size() + answered_.size() > max_connections_) CloseOldest();
    return &entry;
  }
  static void Close(Entry* entry) { entry->list->erase(entry->place); }
  void BeginAnswer(Entry* entry) { Move(entry, &answered_); }
  void EndAnswer(Entry* entry) { Move(entry, &waiting_); }

 private:
  void Move(Entry* entry, List* list) {
    if (entry->list == &closed_) return;
    list->splice(list->end(), *entry->list, entry->place);
    entry->list = list;
  }
  // The library notices the end of the connection in its loop, and then closes the descriptor.
  void CloseOldest() {
    Entry& oldest = waiting_.size() > 1 ? waiting_.front() : answered_.front();
    shutdown(oldest.fd, SHUT_RDWR);
    Move(&oldest, &closed_);
  }

  const size_t max_connections_;
  List waiting_;   // for a request; the connection that has waited longest is first
  List answered_;  // the answer is being sent; the oldest answer is first
  List closed_;
};

class MicrohttpdServer final : public HttpServer {
 public:
  MicrohttpdServer(size_t max_connections, std::vector<HttpRoute> routes)
      : routes_(std::move(routes)), max_connections_(max_connections) {}
  ~MicrohttpdServer() override {
    for (const auto& port : ports_) {
      if (port->daemon != nullptr) MHD_stop_daemon(port->daemon);
    }
  }

  absl::Status Start(const HttpOptions& options) {
    const absl::StatusOr<HostPort> address = ParseHostPort(options.listen);
    if (!address.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(options.flag, " ", address.status().message()));
    }
    ASSIGN_OR_RETURN(Listener listener, Listener::Open(options.flag, *address));
    const size_t max_per_port = std::max<size_t>(1, max_connections_ / listener.fds().size());
    while (!listener.fds().empty()) {
      ports_.push_back(std::make_unique<Port>(this, max_per_port));
      ports_.back()->daemon = Serve(options, listener.Take(), max_per_port, ports_.back().get());
      if (ports_.back()->daemon != nullptr) continue;
      return absl::ResourceExhaustedError(
          absl::StrCat(options.flag, " ", options.listen,
                       ": the thread of the HTTP server cannot be created: raise the limits of "
                       "processes and open files (ulimit -u, ulimit -n, pids.max)"));
    }
    address_ = FormatHostPort({address->host, listener.port()});
    return absl::OkStatus();
  }

  const std::string& address() const override { return address_; }

 private:
  using Entry = ConnectionTable::Entry;
  // A listening socket, and the connections that the library's thread has accepted from it.
  struct Port {
    Port(MicrohttpdServer* server, size_t max_connections)
        : server(server), table(max_connections) {}
    MicrohttpdServer* const server;
    ConnectionTable table;
    MHD_Daemon* daemon = nullptr;
  };

  static MHD_Daemon* Serve(const HttpOptions& options, int fd, size_t max_connections, Port* port) {
    return MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_ITC | MHD_USE_ERROR_LOG, 0, nullptr, nullptr,
        &OnRequest, port, MHD_OPTION_EXTERNAL_LOGGER, &LogFromLibrary, nullptr,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT,
        static_cast<unsigned>(max_connections + kLibrarySlack), MHD_OPTION_CONNECTION_TIMEOUT,
        static_cast<unsigned>(options.idle_seconds), MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        kConnectionBytes, MHD_OPTION_NOTIFY_CONNECTION, &OnConnection, port,
        MHD_OPTION_NOTIFY_COMPLETED, &OnCompleted, port, MHD_OPTION_END);
  }

  static void OnConnection(void* self, MHD_Connection* connection, void** context,
                           MHD_ConnectionNotificationCode what) {
    if (what == MHD_CONNECTION_NOTIFY_CLOSED) {
      ConnectionTable::Close(static_cast<Entry*>(*context));
      return;
    }
    *context = static_cast<Port*>(self)->table.Open(
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd);
  }

  static Entry* EntryOf(MHD_Connection* connection) {
    return static_cast<Entry*>(
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context);
  }

  // The library calls this function when it has the headers of a request, then for each piece of a
  // body, and then once more. An answer at the first call would close the connection; so it is
  // given at the last call, unless the request is refused. `*request` is null at the first call.
  static MHD_Result OnRequest(void* self, MHD_Connection* connection, const char* target,
                              const char* method, const char*, const char*, size_t* body_bytes,
                              void** request) {
    auto* const port = static_cast<Port*>(self);
    const bool is_first = std::exchange(*request, self) == nullptr;
    if (is_first && IsRead(method)) return MHD_YES;
    if (*body_bytes > 0) {  // the body of a GET has no meaning
      *body_bytes = 0;
      return MHD_YES;
    }
    port->table.BeginAnswer(EntryOf(connection));
    return Send(connection, port->server->Answer(method, target));
  }

  static void OnCompleted(void* self, MHD_Connection* connection, void**,
                          MHD_RequestTerminationCode) {
    static_cast<Port*>(self)->table.EndAnswer(EntryOf(connection));
  }

  HttpResponse Answer(absl::string_view method, absl::string_view target) {
    const absl::string_view path = PathOf(target);
    const auto route = std::find_if(routes_.begin(), routes_.end(),
                                    [path](const HttpRoute& r) { return r.path == path; });
    if (route == routes_.end()) return {404, HttpResponse().content_type, "not found\n"};
    if (!IsRead(method)) {
      return {405, HttpResponse().content_type, "use GET\n"};
    }
    const std::lock_guard<std::mutex> lock(answer_mutex_);
    return route->answer();
  }

  const std::vector<HttpRoute> routes_;
  const size_t max_connections_;
  std::mutex answer_mutex_;  // held while a route answers
  std::string address_;
  std::vector<std::unique_ptr<Port>> ports_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> StartHttpServer(const HttpOptions& options,
                                                            std::vector<HttpRoute> routes) {
  auto server = std::make_unique<MicrohttpdServer>(LimitOfConnections(options.max_connections),
                                                   std::move(routes));
  RETURN_IF_ERROR(server->Start(options));
  return server;
}

}  // namespace tessera
