// A small HTTP/1.1 server. One thread for each address of the host (localhost may be 127.0.0.1 and
// ::1) serves its connections by events, so that silent or slow clients delay nobody: when there
// are more connections than the limit, the connection that has waited longest for a request is
// closed, or else the one whose answer is oldest. The server has no TLS and ignores bodies. Its
// interface has no types of the HTTP library.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tessera {

struct HttpResponse {
  int code = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};

// Answers GET and HEAD of one path. Other methods get 405, other paths get 404.
struct HttpRoute {
  std::string path;  // "/healthz"
  // Called on a thread of the server, one call at a time. It must not block: while it runs, nobody
  // else is served.
  std::function<HttpResponse()> answer;
};

struct HttpOptions {
  std::string flag;    // the flag that sets `listen`, for error messages: "--metrics-listen"
  std::string listen;  // HOST:PORT; port 0 selects a free port
  // The largest number of open connections, at least 1, shared by the addresses of the host. The
  // server uses an eighth of the process's limit of open files if that is less, so that the rest of
  // the process keeps its files.
  int max_connections = 128;
  // A connection without traffic for this number of seconds is closed.
  int idle_seconds = 10;
};

// Owned by whoever starts it. The destructor closes the port and all connections and joins the
// threads; no route is called afterwards.
class HttpServer {
 public:
  virtual ~HttpServer() = default;
  // The address as HOST:PORT with the port that is bound at all addresses of the host.
  virtual const std::string& address() const = 0;
};

// Errors name the flag and say what to change: the address cannot be parsed, resolved or bound, or
// the server's thread cannot be created.
absl::StatusOr<std::unique_ptr<HttpServer>> StartHttpServer(const HttpOptions& options,
                                                            std::vector<HttpRoute> routes);

}  // namespace tessera
