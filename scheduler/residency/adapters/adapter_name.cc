#include "scheduler/residency/adapters/adapter_name.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <memory>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"

namespace tessera {
namespace {

constexpr absl::string_view kGrammar = R"(^(?=[\p{L}\p{N}_(])[\p{L}\p{M}\p{N} _./:()-]*(?<! )\z)";

struct Deleter {
  void operator()(pcre2_code* p) const { pcre2_code_free(p); }
  void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
};

bool FitsGrammar(absl::string_view name) {
  int error = 0;
  PCRE2_SIZE at = 0;
  const std::unique_ptr<pcre2_code, Deleter> code(
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(kGrammar.data()), kGrammar.size(), PCRE2_UTF,
                    &error, &at, nullptr));
  CHECK(code != nullptr) << error << " at " << at;
  const std::unique_ptr<pcre2_match_data, Deleter> data(pcre2_match_data_create(1, nullptr));
  // A name that is not UTF-8 is an error of the match.
  return pcre2_match(code.get(), reinterpret_cast<PCRE2_SPTR>(name.data()), name.size(), 0, 0,
                     data.get(), nullptr) >= 0;
}

}  // namespace

std::string WrongWithAdapterName(absl::string_view name) {
  std::string wrong;
  if (name.empty()) {
    wrong = "is empty";
  } else if (name.size() > kMaxAdapterNameBytes) {
    wrong = absl::StrCat("has ", name.size(), " bytes");
  } else if (!FitsGrammar(name)) {
    wrong = absl::StrCat("is \"", absl::Utf8SafeCHexEscape(name),
                         "\", with a character that it may not have there");
  } else {
    return "";
  }
  return absl::StrCat(wrong, "; give 1 to ", kMaxAdapterNameBytes,
                      " bytes of letters, digits, spaces and - _ . / : ( ) that begin with a "
                      "letter or digit and do not end with a space");
}

}  // namespace tessera
