// Macros for logging and for checks of invariants. Logs go to stderr through spdlog. CHECK prints
// the compared values and aborts the process when an internal invariant is broken; errors in user
// input are reported as absl::Status instead. The arguments of TLOG_DEBUG are not evaluated unless
// the debug level is on. Each message is one line of bounded length, whatever its arguments contain
// (NewLineFormatter). Any thread.
#pragma once

#include <spdlog/spdlog.h>

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <sstream>
#include <string>

#include "absl/strings/string_view.h"

namespace tessera {

// The longest message of a log line in bytes. Longer messages are cut and end with "...".
inline constexpr size_t kMaxLogBytes = 4096;

// Sets the log level: "trace", "debug", "info", "warn" or "error". Returns false if `level` is none
// of these names. REQUIRES: called at most once, from main.
bool InitLogging(const std::string& level);

// A formatter with a pattern of spdlog. It passes each message through LogText, so that no message
// breaks the line or changes the terminal.
std::unique_ptr<spdlog::formatter> NewLineFormatter(const std::string& pattern);

// Returns `text` as a part of one line: control characters, line separators and invalid UTF-8 are
// escaped as \n, \t, \r or \xNN. A result that would be longer than `max_bytes` is cut at the end
// of a code point and ends with "...".
std::string LogText(absl::string_view text, size_t max_bytes = kMaxLogBytes);
// The same in double quotes, with quotes and backslashes escaped too: for text of strangers among
// fields NAME=VALUE, where a space would look like the end of a field.
std::string LogQuoted(absl::string_view text, size_t max_bytes);

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
