// Logging and invariants. Logs go to stderr through spdlog; CHECK aborts with the values when an
// invariant of ours is broken (never for user input: that is absl::Status). DEBUG arguments are not
// evaluated when the level is off.
#pragma once

#include <spdlog/spdlog.h>

#include <cstdlib>
#include <sstream>
#include <string>

namespace tessera {

// level: trace, debug, info, warn, error. Returns false for an unknown name. Call once, from main.
bool InitLogging(const std::string& level);

namespace internal {
// Collects a failed check's message and aborts when destroyed.
class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition);
  [[noreturn]] ~CheckFailure();
  std::ostream& stream() { return stream_; }

 private:
  std::ostringstream stream_;
};
struct Voidify {
  void operator&(std::ostream&) const {}
};
}  // namespace internal
}  // namespace tessera

#define TLOG_DEBUG(...)                                                       \
  do {                                                                        \
    if (spdlog::should_log(spdlog::level::debug)) spdlog::debug(__VA_ARGS__); \
  } while (0)
#define TLOG_INFO(...) spdlog::info(__VA_ARGS__)
#define TLOG_WARN(...) spdlog::warn(__VA_ARGS__)
#define TLOG_ERROR(...) spdlog::error(__VA_ARGS__)

#define CHECK(condition)                              \
  (__builtin_expect(static_cast<bool>(condition), 1)) \
      ? (void)0                                       \
      : ::tessera::internal::Voidify() &              \
            ::tessera::internal::CheckFailure(__FILE__, __LINE__, #condition).stream()
#define TESSERA_CHECK_OP(a, op, b) CHECK((a)op(b)) << " (" << (a) << " vs " << (b) << ") "
#define CHECK_EQ(a, b) TESSERA_CHECK_OP(a, ==, b)
#define CHECK_NE(a, b) TESSERA_CHECK_OP(a, !=, b)
#define CHECK_LT(a, b) TESSERA_CHECK_OP(a, <, b)
#define CHECK_LE(a, b) TESSERA_CHECK_OP(a, <=, b)
#define CHECK_GT(a, b) TESSERA_CHECK_OP(a, >, b)
#define CHECK_GE(a, b) TESSERA_CHECK_OP(a, >=, b)
