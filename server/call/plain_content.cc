#include "server/call/plain_content.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"
#include "server/text/template/json_text.h"
#include "server/text/tokenizer/tokenizer.h"
#include "server/text/tokenizer/utf8.h"

namespace tessera {
namespace {

// Placeholders are Tangut ideographs: letters without case that are printable for Python's repr.
// Those that a client sends are hidden too, so that they cannot be taken for placeholders.
constexpr char32_t kFirstPlaceholder = 0x17000;
// One byte, so that blanked text is not larger; no white space, and in no special token.
constexpr char kBlank = '\x7F';

bool IsPlaceholder(char32_t c) {
  return c >= kFirstPlaceholder && c < kFirstPlaceholder + PlainContent::kMaxHidden;
}

// Returns the text with kBlank in place of each character that `is_replaced` names.
template <class Predicate>
std::string Replaced(std::string_view text, const Predicate& is_replaced) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const Utf8Unit unit = NextUtf8(text, at);
    if (is_replaced(unit.code_point)) {
      out.push_back(kBlank);
    } else {
      out.append(text.substr(at, unit.length));
    }
    at += unit.length;
  }
  return out;
}

void AppendJsonString(std::string_view text, std::string* out) {
  out->push_back('"');
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x20) {
      absl::StrAppend(out, "\\u", absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad4));
      continue;
    }
    if (c == '"' || c == '\\') out->push_back('\\');
    out->push_back(c);
  }
  out->push_back('"');
}

}  // namespace

PlainContent::PlainContent(const Tokenizer* tokenizer) : tokenizer_(tokenizer) {
  CHECK(!tokenizer->normalizes_special());
  for (const char32_t c : tokenizer->special_characters()) {
    const bool is_mark = c >= 0x80 || absl::ascii_ispunct(static_cast<unsigned char>(c));
    if (is_mark && c != '_') marks_.insert(c);
  }
}

void PlainContent::AppendPlaceholder(std::string_view hidden, std::string* out) {
  const auto [it, is_new] = index_.try_emplace(std::string(hidden), hidden_.size());
  if (is_new && hidden_.size() == kMaxHidden) {
    index_.erase(it);
    overflowed_ = true;
    out->append(hidden);
    return;
  }
  if (is_new) hidden_.emplace_back(hidden);
  AppendUtf8(kFirstPlaceholder + static_cast<char32_t>(it->second), out);
}

std::string PlainContent::Hide(std::string_view text) {
  std::string out;
  size_t done = 0;
  const auto append_until = [&](size_t end) {
    while (done < end) {
      const Utf8Unit unit = NextUtf8(text, done);
      const std::string_view character = text.substr(done, unit.length);
      if (IsPlaceholder(unit.code_point)) {
        AppendPlaceholder(character, &out);
      } else {
        out.append(character);
      }
      done += unit.length;
    }
  };
  for (const AddedTokenSplitter::Part& part : tokenizer_->FindSpecial(text)) {
    append_until(part.begin);
    AppendPlaceholder(text.substr(part.begin, part.end - part.begin), &out);
    done = part.end;
  }
  append_until(text.size());
  return out;
}

std::string PlainContent::BlankMarks(std::string_view text) const {
  return Replaced(text, [this](char32_t c) { return marks_.contains(c); });
}

std::string PlainContent::BlankAll(std::string_view text) {
  return Replaced(text, [](char32_t c) { return !IsUnicodeSpace(c); });
}

std::string PlainContent::Restore(std::string_view text) const {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const Utf8Unit unit = NextUtf8(text, at);
    const bool is_hidden =
        IsPlaceholder(unit.code_point) && unit.code_point - kFirstPlaceholder < hidden_.size();
    if (is_hidden) {
      out.append(hidden_[unit.code_point - kFirstPlaceholder]);
    } else {
      out.append(text.substr(at, unit.length));
    }
    at += unit.length;
  }
  return out;
}

std::string MapJsonStrings(std::string_view json,
                           const std::function<std::string(std::string_view)>& map) {
  std::string out;
  for (size_t at = 0; at < json.size();) {
    if (json[at] != '"') {
      out.push_back(json[at++]);
      continue;
    }
    size_t end = at + 1;
    while (end < json.size() && json[end] != '"') end += json[end] == '\\' ? 2 : 1;
    const std::string_view literal = json.substr(at, end + 1 - at);
    const auto value = jinja::ParseJson("a string", {literal.data(), literal.size()});
    CHECK(value.ok() && value->is_string()) << value.status();
    AppendJsonString(map(value->text()), &out);
    at = end + 1;
  }
  return out;
}

}  // namespace tessera
