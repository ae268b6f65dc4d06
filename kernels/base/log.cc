#include "kernels/base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

namespace tessera {

bool InitLogging(const std::string& level) {
  static constexpr const char* kLevels[] = {"trace", "debug", "info", "warn", "error"};
  bool known = false;
  for (const char* name : kLevels) known = known || level == name;
  if (!known) return false;
  auto logger = std::make_shared<spdlog::logger>(
      "tessera", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %L %v");
  logger->set_level(spdlog::level::from_str(level));
  spdlog::set_default_logger(std::move(logger));
  return true;
}

namespace internal {

CheckFailure::CheckFailure(const char* file, int line, const char* condition) {
  stream_ << file << ":" << line << " CHECK failed: " << condition << " ";
}

CheckFailure::~CheckFailure() {
  spdlog::critical("{}", stream_.str());
  spdlog::default_logger_raw()->flush();
  std::abort();
}

}  // namespace internal
}  // namespace tessera
