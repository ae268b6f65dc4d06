#include "server/metrics.h"

#include <CivetServer.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "server/config.h"
#include "server/serving.h"

namespace tessera {
namespace {

void Answer(mg_connection* connection, int code, const char* type, const std::string& body) {
  const char* phrase = code == 200 ? "OK" : "Service Unavailable";
  mg_printf(
      connection,
      "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n",
      code, phrase, type, body.size());
  mg_write(connection, body.data(), body.size());
}

class PageHandler final : public CivetHandler {
 public:
  explicit PageHandler(const MetricsSources* sources) : sources_(sources) {}
  bool handleGet(CivetServer*, mg_connection* connection) override {
    Answer(connection, 200, "text/plain; version=0.0.4; charset=utf-8", MetricsText(*sources_));
    return true;
  }

 private:
  const MetricsSources* const sources_;
};

class CheckHandler final : public CivetHandler {
 public:
  CheckHandler(const char* yes, const char* no, std::function<bool()> check)
      : yes_(yes), no_(no), check_(std::move(check)) {}
  bool handleGet(CivetServer*, mg_connection* connection) override {
    const bool ok = check_();
    Answer(connection, ok ? 200 : 503, "text/plain; charset=utf-8", ok ? yes_ : no_);
    return true;
  }

 private:
  const char* const yes_;
  const char* const no_;
  const std::function<bool()> check_;
};

class HttpMetricsServer final : public MetricsServer {
 public:
  explicit HttpMetricsServer(MetricsSources sources)
      : sources_(std::move(sources)),
        page_(&sources_),
        live_("live\n", "the step loop is stuck\n", sources_.live),
        ready_("ready\n", "draining or stuck\n",
               [this] { return sources_.live() && !sources_.context->draining.load(); }) {}

  absl::Status Start(const std::string& listen) {
    ASSIGN_OR_RETURN(const HostPort where, ParseHostPort(listen));
    const std::string host =
        where.host.find(':') == std::string::npos ? where.host : absl::StrCat("[", where.host, "]");
    const std::string port =
        absl::StrCat(host == "localhost" ? "127.0.0.1" : host, ":", where.port);
    try {
      server_ = std::make_unique<CivetServer>(
          std::vector<std::string>{"listening_ports", port, "num_threads", "2"});
    } catch (const CivetException&) {
      return absl::InvalidArgumentError(
          absl::StrCat("cannot listen on ", listen,
                       " for metrics: is the port in use? choose another with "
                       "--metrics-listen (port 0 picks a free one)"));
    }
    server_->addHandler("/metrics", page_);
    server_->addHandler("/healthz", live_);
    server_->addHandler("/readyz", ready_);
    address_ = absl::StrCat(host, ":", server_->getListeningPorts().at(0));
    return absl::OkStatus();
  }

  const std::string& address() const override { return address_; }

 private:
  const MetricsSources sources_;
  PageHandler page_;
  CheckHandler live_;
  CheckHandler ready_;
  std::string address_;
  std::unique_ptr<CivetServer> server_;  // ended first: its threads use the handlers
};

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsServer>> StartMetrics(const std::string& listen,
                                                            MetricsSources sources) {
  auto server = std::make_unique<HttpMetricsServer>(std::move(sources));
  RETURN_IF_ERROR(server->Start(listen));
  return server;
}

}  // namespace tessera
