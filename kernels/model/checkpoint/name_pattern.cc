#include "kernels/model/checkpoint/name_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <utility>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

constexpr size_t kMaxExpressionBytes = 32 * 1024;
constexpr uint32_t kMaxHeapKib = 1024;  // memory for the backtracking of one comparison

struct Deleter {
  void operator()(pcre2_code* p) const { pcre2_code_free(p); }
  void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
  void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
};
template <class T>
using Owned = std::unique_ptr<T, Deleter>;

std::string MessageOf(int error) {
  char message[256] = {};
  pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(message), sizeof(message));
  return message;
}

}  // namespace

struct NamePattern::Code {
  Owned<pcre2_code> compiled;
};

NamePattern::NamePattern(std::unique_ptr<Code> code, uint32_t max_steps)
    : code_(std::move(code)), max_steps_(max_steps) {}
NamePattern::NamePattern(NamePattern&&) noexcept = default;
NamePattern& NamePattern::operator=(NamePattern&&) noexcept = default;
NamePattern::~NamePattern() = default;

absl::StatusOr<NamePattern> NamePattern::Compile(absl::string_view expression, uint32_t max_steps) {
  if (expression.size() > kMaxExpressionBytes) {
    return absl::InvalidArgumentError(absl::StrCat("has an expression of ", expression.size(),
                                                   " bytes; the limit is ", kMaxExpressionBytes));
  }
  int error = 0;
  PCRE2_SIZE at = 0;
  auto code = std::make_unique<Code>();
  code->compiled.reset(
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(),
                    PCRE2_UTF | PCRE2_ANCHORED | PCRE2_NEVER_BACKSLASH_C, &error, &at, nullptr));
  if (code->compiled == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("is no regular expression: ", MessageOf(error)));
  }
  return NamePattern(std::move(code), max_steps);
}

absl::StatusOr<bool> NamePattern::MatchesStart(absl::string_view name) const {
  const Owned<pcre2_match_data> data(pcre2_match_data_create(1, nullptr));
  const Owned<pcre2_match_context> context(pcre2_match_context_create(nullptr));
  pcre2_set_match_limit(context.get(), max_steps_);
  pcre2_set_heap_limit(context.get(), kMaxHeapKib);
  const int result = pcre2_match(code_->compiled.get(), reinterpret_cast<PCRE2_SPTR>(name.data()),
                                 name.size(), 0, 0, data.get(), context.get());
  if (result >= 0 || result == PCRE2_ERROR_NOMATCH) return result >= 0;
  if (result == PCRE2_ERROR_MATCHLIMIT) {
    return absl::InvalidArgumentError(absl::StrCat("takes more than ", max_steps_,
                                                   " steps to compare with ", name,
                                                   "; write names of modules, or fewer *"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("cannot be compared with ", name, ": ", MessageOf(result)));
}

}  // namespace tessera
