#include "server/text/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <utility>

#include "server/text/tokenizer/byte_level.h"
#include "server/text/tokenizer/utf8.h"

namespace tessera {
namespace {

// Normalization stops when a text exceeds this size, because replacements can multiply its size.
constexpr size_t kMaxTextBytes = size_t{1} << 30;

// At least the number of code points to which one code point decomposes (18 for U+FDFA).
constexpr utf8proc_ssize_t kMaxDecomposition = 32;

bool IsAscii(std::string_view text) {
  for (const char c : text) {
    if (static_cast<unsigned char>(c) >= 0x80) return false;
  }
  return true;
}

utf8proc_option_t OptionsOf(Normalizer::Form form) {
  const int compose = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
  const int decompose = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
  switch (form) {
    case Normalizer::Form::kNfc:
      return static_cast<utf8proc_option_t>(compose);
    case Normalizer::Form::kNfd:
      return static_cast<utf8proc_option_t>(decompose);
    case Normalizer::Form::kNfkc:
      return static_cast<utf8proc_option_t>(compose | UTF8PROC_COMPAT);
    default:
      return static_cast<utf8proc_option_t>(decompose | UTF8PROC_COMPAT);
  }
}

int CombiningClass(utf8proc_int32_t code_point) {
  return utf8proc_get_property(code_point)->combining_class;
}

// Appends the full decomposition of every code point. Returns false if the text is not UTF-8.
bool Decompose(std::string_view text, utf8proc_option_t options,
               std::vector<utf8proc_int32_t>* out) {
  const auto* next = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  auto left = static_cast<utf8proc_ssize_t>(text.size());
  out->reserve(text.size());
  while (left > 0) {
    utf8proc_int32_t code_point = 0;
    const utf8proc_ssize_t bytes = utf8proc_iterate(next, left, &code_point);
    if (bytes <= 0) return false;
    utf8proc_int32_t parts[kMaxDecomposition];
    const utf8proc_ssize_t count =
        utf8proc_decompose_char(code_point, parts, kMaxDecomposition, options, nullptr);
    if (count < 0 || count > kMaxDecomposition) return false;
    out->insert(out->end(), parts, parts + count);
    next += bytes;
    left -= bytes;
  }
  return true;
}

// Sorts each run of combining marks by combining class (Unicode's canonical order). utf8proc_map is
// not used for this, because its time grows with the square of the number of marks.
void OrderMarks(std::vector<utf8proc_int32_t>* code_points) {
  const auto is_mark = [](utf8proc_int32_t c) { return CombiningClass(c) != 0; };
  const auto by_class = [](utf8proc_int32_t a, utf8proc_int32_t b) {
    return CombiningClass(a) < CombiningClass(b);
  };
  auto begin = code_points->begin();
  while (begin != code_points->end()) {
    begin = std::find_if(begin, code_points->end(), is_mark);
    const auto end = std::find_if_not(begin, code_points->end(), is_mark);
    if (end - begin > 1) std::stable_sort(begin, end, by_class);
    begin = end;
  }
}

void ApplyForm(Normalizer::Form form, std::string* text) {
  if (IsAscii(*text)) return;  // all four forms leave ASCII unchanged
  const utf8proc_option_t options = OptionsOf(form);
  std::vector<utf8proc_int32_t> code_points;
  if (!Decompose(*text, options, &code_points)) return;  // the text is not UTF-8
  OrderMarks(&code_points);
  const auto count = static_cast<utf8proc_ssize_t>(code_points.size());
  code_points.push_back(0);  // room for the zero byte that utf8proc writes at the end
  const utf8proc_ssize_t size = utf8proc_reencode(code_points.data(), count, options);
  if (size < 0) return;
  text->assign(reinterpret_cast<const char*>(code_points.data()), static_cast<size_t>(size));
}

}  // namespace

std::string ReplaceRule::Apply(std::string_view input) const {
  std::string out;
  size_t done = 0;
  if (!regex.has_value()) {
    for (size_t at = input.find(text); at != std::string_view::npos; at = input.find(text, done)) {
      out.append(input.substr(done, at - done)).append(content);
      done = at + text.size();
    }
    out.append(input.substr(done));
    return out;
  }
  std::vector<TextRange> matches;
  RegexMatcher(&*regex).FindAll(input, &matches);
  for (const TextRange& match : matches) {
    out.append(input.substr(done, match.begin - done)).append(content);
    done = match.end;
  }
  out.append(input.substr(done));
  return out;
}

void Normalizer::AddForm(Form form) { steps_.push_back({Kind::kForm, form, {}, {}}); }
void Normalizer::AddPrepend(std::string text) {
  steps_.push_back({Kind::kPrepend, {}, std::move(text), {}});
}
void Normalizer::AddReplace(ReplaceRule rule) {
  steps_.push_back({Kind::kReplace, {}, {}, std::move(rule)});
}
void Normalizer::AddByteLevel() { steps_.push_back({Kind::kByteLevel, {}, {}, {}}); }

void Normalizer::Apply(std::string* text) const {
  for (const Step& step : steps_) {
    if (text->empty() || text->size() > kMaxTextBytes) return;
    switch (step.kind) {
      case Kind::kForm:
        ApplyForm(step.form, text);
        break;
      case Kind::kPrepend:
        text->insert(0, step.prepend);
        break;
      case Kind::kReplace:
        *text = step.replace.Apply(*text);
        break;
      case Kind::kByteLevel: {
        std::string mapped;
        AppendByteLevel(*text, &mapped);
        text->swap(mapped);
        break;
      }
    }
  }
}

}  // namespace tessera
