#include "server/metrics/metrics.h"

#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "server/call/serving.h"
#include "server/http/http_server.h"

namespace tessera {
namespace {

constexpr char kNoAnswer[] = "the gRPC port does not answer\n";
constexpr char kNotLive[] = "the engine makes no progress\n";

HttpResponse Text(int code, const std::string& body) {
  HttpResponse response;
  response.code = code;
  response.body = body;
  return response;
}

class HttpMetricsServer final : public MetricsServer {
 public:
  explicit HttpMetricsServer(std::string version) : version_(std::move(version)) {}

  absl::Status Start(const std::string& listen) {
    HttpOptions options;
    options.flag = "--metrics-listen";
    options.listen = listen;
    ASSIGN_OR_RETURN(http_, StartHttpServer(options, {{"/metrics", [this] { return Metrics(); }},
                                                      {"/healthz", [this] { return Healthz(); }},
                                                      {"/readyz", [this] { return Readyz(); }}}));
    return absl::OkStatus();
  }

  const std::string& address() const override { return http_->address(); }

  void SetProgress(const std::string& progress) override {
    std::lock_guard<std::mutex> lock(mutex_);
    progress_ = progress;
  }

  void Publish(MetricsSources sources) override {
    auto published = std::make_shared<const MetricsSources>(std::move(sources));
    std::lock_guard<std::mutex> lock(mutex_);
    CHECK(sources_ == nullptr);
    sources_ = std::move(published);
  }

 private:
  // Null while models load.
  std::shared_ptr<const MetricsSources> sources() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return sources_;
  }
  std::string progress() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return progress_;
  }

  HttpResponse Metrics() const {
    const auto sources = this->sources();
    HttpResponse response;
    response.content_type = "text/plain; version=0.0.4; charset=utf-8";
    response.body = sources == nullptr ? LoadingMetricsText(version_) : MetricsText(*sources);
    return response;
  }

  HttpResponse Healthz() const {
    const auto sources = this->sources();
    return sources == nullptr || sources->live() ? Text(200, "ok\n") : Text(503, kNotLive);
  }

  HttpResponse Readyz() const {
    const auto sources = this->sources();
    if (sources == nullptr) return Text(503, absl::StrCat(progress(), "\n"));
    if (sources->context->draining.load()) return Text(503, "draining\n");
    if (!sources->context->port_answers.load()) return Text(503, kNoAnswer);
    return sources->live() ? Text(200, "ok\n") : Text(503, kNotLive);
  }

  const std::string version_;
  mutable std::mutex mutex_;
  std::string progress_ = "starting";
  std::shared_ptr<const MetricsSources> sources_;
  std::unique_ptr<HttpServer> http_;  // the last member, because its thread uses the others
};

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsServer>> StartMetrics(const std::string& listen,
                                                            const std::string& version) {
  auto server = std::make_unique<HttpMetricsServer>(version);
  RETURN_IF_ERROR(server->Start(listen));
  return server;
}

}  // namespace tessera
