#include "server/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <cstdlib>
#include <memory>
#include <utility>

#include "server/tokenizer/byte_level.h"
#include "server/tokenizer/utf8.h"

namespace tessera {
namespace {

// Replacements that let a text grow without end stop here.
constexpr size_t kMaxTextBytes = size_t{1} << 30;

struct FreeDeleter {
  void operator()(utf8proc_uint8_t* p) const { std::free(p); }
};

bool IsAscii(std::string_view text) {
  for (const char c : text) {
    if (static_cast<unsigned char>(c) >= 0x80) return false;
  }
  return true;
}

void ApplyForm(Normalizer::Form form, std::string* text) {
  if (IsAscii(*text)) return;  // ASCII is its own form in all four
  int options = UTF8PROC_STABLE;
  switch (form) {
    case Normalizer::Form::kNfc:
      options |= UTF8PROC_COMPOSE;
      break;
    case Normalizer::Form::kNfd:
      options |= UTF8PROC_DECOMPOSE;
      break;
    case Normalizer::Form::kNfkc:
      options |= UTF8PROC_COMPOSE | UTF8PROC_COMPAT;
      break;
    case Normalizer::Form::kNfkd:
      options |= UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT;
      break;
  }
  utf8proc_uint8_t* raw = nullptr;
  const utf8proc_ssize_t size = utf8proc_map(
      reinterpret_cast<const utf8proc_uint8_t*>(text->data()),
      static_cast<utf8proc_ssize_t>(text->size()), &raw, static_cast<utf8proc_option_t>(options));
  const std::unique_ptr<utf8proc_uint8_t, FreeDeleter> result(raw);
  if (size < 0) return;  // only for text that is not UTF-8
  text->assign(reinterpret_cast<const char*>(result.get()), static_cast<size_t>(size));
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
