#include "server/metrics/metrics.h"

#include <CivetServer.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "server/call/serving.h"
#include "server/config/config.h"
#include "server/config/net.h"

namespace tessera {
namespace {

struct Answer {
  int code = 200;
  const char* content_type = "text/plain; charset=utf-8";
  std::string body;
};

// Answers GET and HEAD with the result of a function.
class Handler final : public CivetHandler {
 public:
  explicit Handler(std::function<Answer()> answer) : answer_(std::move(answer)) {}

  bool handleGet(CivetServer*, mg_connection* connection) override {
    return Send(connection, true);
  }
  bool handleHead(CivetServer*, mg_connection* connection) override {
    return Send(connection, false);
  }

 private:
  bool Send(mg_connection* connection, bool with_body) {
    const Answer answer = answer_();
    mg_printf(connection,
              "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\n"
              "Cache-Control: no-store\r\n\r\n",
              answer.code, answer.code == 200 ? "OK" : "Service Unavailable", answer.content_type,
              answer.body.size());
    if (with_body) mg_write(connection, answer.body.data(), answer.body.size());
    return true;
  }

  const std::function<Answer()> answer_;
};

Answer Probe(bool good, const char* why_not) {
  return good ? Answer{200, "text/plain; charset=utf-8", "ok\n"}
              : Answer{503, "text/plain; charset=utf-8", why_not};
}

constexpr char kNoAnswer[] = "the gRPC port does not answer\n";
constexpr char kNotLive[] = "the engine makes no progress\n";

class CivetMetricsServer final : public MetricsServer {
 public:
  explicit CivetMetricsServer(MetricsSources sources)
      : sources_(std::move(sources)),
        metrics_([this] {
          return Answer{200, "text/plain; version=0.0.4; charset=utf-8", MetricsText(sources_)};
        }),
        healthz_([this] { return Probe(sources_.live(), kNotLive); }),
        readyz_([this] {
          if (sources_.context->draining.load()) return Probe(false, "draining\n");
          if (!sources_.context->port_answers.load()) return Probe(false, kNoAnswer);
          return Probe(sources_.live(), kNotLive);
        }) {}

  // Civetweb notices `close` only at its next connection or after two seconds. So that the
  // destructor takes less than two seconds, a thread connects to the server's own port again and
  // again until `close` returns.
  ~CivetMetricsServer() override {
    if (server_ == nullptr) return;
    std::atomic<bool> ended{false};
    std::thread touch([this, &ended] {
      while (!ended.load()) {
        TouchPort(bound_);
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
    });
    server_->close();
    ended.store(true);
    touch.join();
  }

  absl::Status Start(const std::string& listen) {
    const absl::StatusOr<HostPort> address = ParseHostPort(listen);
    if (!address.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--metrics-listen ", address.status().message()));
    }
    absl::StatusOr<HostPort> numeric = ResolveHost(*address);
    if (!numeric.ok()) return ListenError("--metrics-listen", *address);
    const std::vector<std::string> options = {"listening_ports",    FormatHostPort(*numeric),
                                              "num_threads",        "2",
                                              "request_timeout_ms", "10000"};
    static const CivetCallbacks kQuiet = [] {
      CivetCallbacks callbacks;
      callbacks.log_message = [](const mg_connection*, const char* message) {
        TLOG_DEBUG("metrics: {}", message);
        return 1;
      };
      return callbacks;
    }();
    try {
      server_ = std::make_unique<CivetServer>(options, &kQuiet);
    } catch (const CivetException&) {
      return ListenError("--metrics-listen", *address);
    }
    server_->addHandler("/metrics$", metrics_);
    server_->addHandler("/healthz$", healthz_);
    server_->addHandler("/readyz$", readyz_);
    bound_ = {numeric->host, server_->getListeningPorts().front()};
    address_ = FormatHostPort({address->host, bound_.port});
    return absl::OkStatus();
  }

  const std::string& address() const override { return address_; }

 private:
  const MetricsSources sources_;
  Handler metrics_;
  Handler healthz_;
  Handler readyz_;
  std::string address_;
  HostPort bound_;
  std::unique_ptr<CivetServer> server_;  // declared last: its threads use the handlers
};

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsServer>> StartMetrics(const std::string& listen,
                                                            MetricsSources sources) {
  auto server = std::make_unique<CivetMetricsServer>(std::move(sources));
  RETURN_IF_ERROR(server->Start(listen));
  return server;
}

}  // namespace tessera
