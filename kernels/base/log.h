// Macros for logging and for checks of invariants. Logs go to stderr through spdlog. CHECK prints
// the compared values and aborts the process when an internal invariant is broken; errors in user
// input are reported as absl::Status instead. The arguments of TLOG_DEBUG are not evaluated unless
// the debug level is on. Any thread.
#pragma once

#include <spdlog/spdlog.h>

#include <cstdlib>
#include <sstream>
#include <string>

namespace tessera {

// Sets the log level: "trace", "debug", "info", "warn" or "error". Returns false if `level` is none
// of these names. REQUIRES: called at most once, from main.
bool InitLogging(const std::string& level);

namespace internal {
// Collects the message of a failed check. The destructor logs the message and aborts the process.
class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition);
  [[noreturn]] ~CheckFailure();
  std::ostream& stream() { return stream_; }

 private:
  std::ostringstream stream_;
};
// Gives both branches of CHECK's conditional operator the type void.
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
