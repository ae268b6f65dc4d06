// Captures the log lines of all threads during its lifetime, one line "[level] text" each. Owned by
// a test.
#pragma once

#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <sstream>
#include <string>

namespace tessera::testing {

class LogCapture final {
 public:
  LogCapture()
      : before_(spdlog::default_logger()),
        sink_(std::make_shared<spdlog::sinks::ostream_sink_mt>(lines_)) {
    auto logger = std::make_shared<spdlog::logger>("capture", sink_);
    logger->set_level(spdlog::level::debug);
    logger->set_pattern("[%l] %v");
    spdlog::set_default_logger(std::move(logger));
  }
  ~LogCapture() { spdlog::set_default_logger(before_); }
  LogCapture(const LogCapture&) = delete;
  LogCapture& operator=(const LogCapture&) = delete;

  // REQUIRES: no thread logs at the same time.
  std::string text() const { return lines_.str(); }

 private:
  const std::shared_ptr<spdlog::logger> before_;
  std::ostringstream lines_;
  const std::shared_ptr<spdlog::sinks::ostream_sink_mt> sink_;
};

}  // namespace tessera::testing
