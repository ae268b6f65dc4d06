#include "kernels/base/log.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_color_sinks.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

bool IsPlainAscii(char c) { return c >= 0x20 && c < 0x7F; }

// Returns the number of bytes of the code point at the start of `text`, or 0 if it is a control
// character, a line separator or invalid UTF-8. REQUIRES: `text` is not empty.
size_t PrintableBytes(absl::string_view text) {
  const auto byte = [text](size_t i) { return static_cast<unsigned char>(text[i]); };
  if (byte(0) < 0x80) return IsPlainAscii(text[0]) ? 1 : 0;
  const size_t length = byte(0) >= 0xF0 ? 4 : byte(0) >= 0xE0 ? 3 : 2;
  if (byte(0) < 0xC2 || byte(0) > 0xF4 || text.size() < length) return 0;
  uint32_t code_point = byte(0) & (0xFFu >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
    code_point = code_point << 6 | (byte(i) & 0x3Fu);
  }
  constexpr uint32_t kSmallest[] = {0, 0, 0xA0, 0x800, 0x10000};  // U+0080 to U+009F are controls
  const bool is_surrogate = code_point >= 0xD800 && code_point < 0xE000;
  const bool is_separator = code_point == 0x2028 || code_point == 0x2029;
  if (code_point < kSmallest[length] || code_point > 0x10FFFF) return 0;
  return is_surrogate || is_separator ? 0 : length;
}

std::string Escaped(char c) {
  switch (c) {
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    default:
      return absl::StrCat("\\x", absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad2));
  }
}

std::string EscapeAndCut(absl::string_view text, absl::string_view also_escaped, size_t max_bytes) {
  constexpr absl::string_view kCut = "...";
  std::string out;
  out.reserve(std::min(text.size(), max_bytes) + kCut.size());
  size_t room = 0;  // size of the longest prefix of `out` that leaves room for kCut
  while (!text.empty()) {
    const size_t length = PrintableBytes(text);
    const bool is_kept = length > 0 && also_escaped.find(text[0]) == absl::string_view::npos;
    if (is_kept) {
      absl::StrAppend(&out, text.substr(0, length));
    } else {
      absl::StrAppend(&out, length > 0 ? absl::StrCat("\\", text.substr(0, 1)) : Escaped(text[0]));
    }
    text.remove_prefix(std::max<size_t>(length, 1));
    if (out.size() + kCut.size() <= max_bytes) room = out.size();
    if (out.size() > max_bytes) return absl::StrCat(out.substr(0, room), kCut);
  }
  return out;
}

class LineFormatter final : public spdlog::formatter {
 public:
  explicit LineFormatter(std::string pattern) : pattern_(std::move(pattern)), inner_(pattern_) {}

  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override {
    const spdlog::string_view_t text = message.payload;
    if (text.size() <= kMaxLogBytes && std::all_of(text.begin(), text.end(), IsPlainAscii)) {
      return inner_.format(message, out);
    }
    const std::string line = LogText(absl::string_view(text.data(), text.size()));
    spdlog::details::log_msg copy = message;
    copy.payload = line;
    inner_.format(copy, out);
  }
  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<LineFormatter>(pattern_);
  }

 private:
  const std::string pattern_;
  spdlog::pattern_formatter inner_;
};

}  // namespace

std::string LogText(absl::string_view text, size_t max_bytes) {
  return EscapeAndCut(text, "", max_bytes);
}

std::string LogQuoted(absl::string_view text, size_t max_bytes) {
  return absl::StrCat("\"", EscapeAndCut(text, "\"\\", max_bytes), "\"");
}

std::unique_ptr<spdlog::formatter> NewLineFormatter(const std::string& pattern) {
  return std::make_unique<LineFormatter>(pattern);
}

bool InitLogging(const std::string& level) {
  static constexpr const char* kLevels[] = {"trace", "debug", "info", "warn", "error"};
  bool known = false;
  for (const char* name : kLevels) known = known || level == name;
  if (!known) return false;
  auto logger = std::make_shared<spdlog::logger>(
      "tessera", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  logger->set_formatter(NewLineFormatter("%Y-%m-%dT%H:%M:%S.%e %L %v"));
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
