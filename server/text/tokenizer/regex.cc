#include "server/text/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <cstdint>
#include <utility>

#include "kernels/base/status.h"
#include "server/text/tokenizer/onig_pattern.h"
#include "server/text/tokenizer/utf8.h"

namespace tessera {
namespace {

constexpr uint32_t kMatchLimit = 10'000'000;
constexpr uint32_t kHeapLimitKib = 256 * 1024;
constexpr size_t kMaxPatternBytes = 1 << 20;
constexpr size_t kJitStackStartBytes = 64 << 10;
constexpr size_t kJitStackMaxBytes = 64 << 20;

struct Deleter {
  void operator()(pcre2_code* p) const { pcre2_code_free(p); }
  void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
  void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
  void operator()(pcre2_compile_context* p) const { pcre2_compile_context_free(p); }
  void operator()(pcre2_jit_stack* p) const { pcre2_jit_stack_free(p); }
};
template <class T>
using Owned = std::unique_ptr<T, Deleter>;

}  // namespace

struct Regex::Code {
  Owned<pcre2_code> compiled;
};

struct RegexMatcher::State {
  const pcre2_code* code;
  Owned<pcre2_match_data> data;
  Owned<pcre2_match_context> context;
  Owned<pcre2_jit_stack> stack;  // allocated when a match first needs more than the default stack

  int MatchOnce(std::string_view text, size_t from) {
    return pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                       PCRE2_NO_UTF_CHECK, data.get(), context.get());
  }

  // Finds the next match. Returns false if there is none or a limit was reached.
  bool Find(std::string_view text, size_t from, TextRange* match) {
    int result = MatchOnce(text, from);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT && stack == nullptr) {
      stack.reset(pcre2_jit_stack_create(kJitStackStartBytes, kJitStackMaxBytes, nullptr));
      pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
      result = MatchOnce(text, from);
    }
    if (result < 0) return false;
    const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(data.get());
    *match = {offsets[0], offsets[1]};
    return match->begin <= match->end;
  }
};

Regex::Regex(std::unique_ptr<Code> code) : code_(std::move(code)) {}
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

absl::StatusOr<Regex> Regex::Compile(std::string_view pattern) {
  if (pattern.size() > kMaxPatternBytes) {
    return absl::InvalidArgumentError("the pattern is longer than " +
                                      std::to_string(kMaxPatternBytes) + " bytes");
  }
  ASSIGN_OR_RETURN(const std::string translated, TranslateOnigPattern(pattern));
  const Owned<pcre2_compile_context> context(pcre2_compile_context_create(nullptr));
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  Owned<pcre2_code> compiled(
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                    &offset, context.get()));
  if (compiled == nullptr) {
    PCRE2_UCHAR message[256] = {};
    pcre2_get_error_message(error, message, sizeof(message));
    return absl::InvalidArgumentError("the pattern is not a valid regular expression: " +
                                      std::string(reinterpret_cast<const char*>(message)));
  }
  // The result is ignored: without the JIT, matching works but is slower.
  pcre2_jit_compile(compiled.get(), PCRE2_JIT_COMPLETE);
  return Regex(std::make_unique<Code>(Code{std::move(compiled)}));
}

RegexMatcher::RegexMatcher(const Regex* regex) {
  if (regex == nullptr) return;
  state_ = std::make_unique<State>();
  state_->code = regex->code_->compiled.get();
  state_->data.reset(pcre2_match_data_create(1, nullptr));
  state_->context.reset(pcre2_match_context_create(nullptr));
  pcre2_set_match_limit(state_->context.get(), kMatchLimit);
  pcre2_set_heap_limit(state_->context.get(), kHeapLimitKib);
}

RegexMatcher::~RegexMatcher() = default;

void RegexMatcher::FindAll(std::string_view text, std::vector<TextRange>* matches) {
  size_t from = 0;
  bool any = false;
  size_t last_end = 0;
  TextRange match;
  while (from <= text.size() && state_->Find(text, from, &match)) {
    // An empty match directly after the previous match is skipped.
    if (match.begin == match.end && any && last_end == match.end) {
      from += from < text.size() ? NextUtf8(text, from).length : 1;
      continue;
    }
    from = last_end = match.end;
    any = true;
    matches->push_back(match);
  }
}

}  // namespace tessera
