#include "server/text/tokenizer/detokenizer.h"

#include "server/text/tokenizer/utf8.h"

namespace tessera {

IncrementalDetokenizer::IncrementalDetokenizer(const Tokenizer* tokenizer,
                                               std::span<const TokenId> prompt, bool skip_special)
    : stream_(&tokenizer->table(), skip_special) {
  std::string shown;
  for (const TokenId id : prompt) {
    stream_.Push(id, &shown);
    shown.clear();
  }
  stream_.AppendHeld(&prompt_held_);
}

std::string IncrementalDetokenizer::Push(std::span<const TokenId> ids) {
  std::string text;
  for (const TokenId id : ids) stream_.Push(id, &text);
  if (text.empty() || prompt_held_.empty()) return text;
  text = WithoutPrompt(std::move(text));
  prompt_held_.clear();
  return text;
}

std::string IncrementalDetokenizer::Held() const {
  std::string text;
  stream_.AppendHeld(&text);
  return WithoutPrompt(std::move(text));
}

std::string IncrementalDetokenizer::Flush() {
  std::string text;
  stream_.Flush(&text);
  text = WithoutPrompt(std::move(text));
  prompt_held_.clear();
  return text;
}

std::string IncrementalDetokenizer::WithoutPrompt(std::string text) const {
  size_t common = 0;
  while (common < text.size() && common < prompt_held_.size() &&
         text[common] == prompt_held_[common]) {
    ++common;
  }
  // The cut must be at the start of a code point.
  while (common > 0 && common < text.size() &&
         (static_cast<unsigned char>(text[common]) & 0xC0) == 0x80) {
    --common;
  }
  return text.erase(0, common);
}

}  // namespace tessera
