#include "server/text/tokenizer/decode_stream.h"

#include "server/text/tokenizer/utf8.h"

namespace tessera {

void DecodeStream::Push(TokenId id, std::string* out) {
  if (!table_->Has(id)) return;
  if (skip_special_ && table_->is_special(id)) return;
  const DecodeRules& rules = table_->rules();
  const bool first = first_;
  first_ = false;
  const std::string& piece = table_->piece(id);
  if (table_->is_byte(id)) {
    pending_ += piece;
    return;
  }
  if (rules.bytes == DecodeRules::Bytes::kLossy) {
    std::string text;
    pending_ += piece;
    pending_.erase(0, AppendLossy(pending_, /*final=*/false, &text));
    PushText(text, out);
    return;
  }
  EndByteRun(out);
  if (!first && !rules.separator.empty()) PushText(rules.separator, out);
  if (first && !rules.first_token_drops.empty()) {
    // The first token is decoded from its content instead of its piece, because the piece has a
    // space in place of each dropped string.
    std::string text = table_->content(id);
    for (size_t at = text.find(rules.first_token_drops); at != std::string::npos;
         at = text.find(rules.first_token_drops, at)) {
      text.erase(at, rules.first_token_drops.size());
    }
    PushText(text, out);
    return;
  }
  PushText(piece, out);
}

void DecodeStream::EndByteRun(std::string* out) {
  if (pending_.empty()) return;
  std::string text;
  if (IsValidUtf8(pending_)) {
    text.swap(pending_);
  } else {
    for (size_t i = 0; i < pending_.size(); ++i) text += kReplacementCharacter;
  }
  pending_.clear();
  PushText(text, out);
}

void DecodeStream::PushText(std::string_view text, std::string* out) {
  const DecodeRules& rules = table_->rules();
  if (rules.strip.empty()) {
    out->append(text);
    return;
  }
  while (strip_left_ > 0 && !text.empty()) {
    if (text.substr(0, rules.strip.size()) != rules.strip) {
      strip_left_ = 0;
      break;
    }
    text.remove_prefix(rules.strip.size());
    --strip_left_;
  }
  AppendStripped(text, out);
}

void DecodeStream::AppendStripped(std::string_view text, std::string* out) {
  if (text.empty()) return;
  const DecodeRules& rules = table_->rules();
  size_t num_at_end = 0;
  size_t end = text.size();
  while (num_at_end < rules.strip_end && end >= rules.strip.size() &&
         text.substr(end - rules.strip.size(), rules.strip.size()) == rules.strip) {
    end -= rules.strip.size();
    ++num_at_end;
  }
  // The strip strings held so far can still be at the end of the text only if `text` consists of
  // strip strings alone.
  const size_t num_candidates = end == 0 ? num_held_ + num_at_end : num_at_end;
  const size_t num_kept = num_candidates < rules.strip_end ? num_candidates : rules.strip_end;
  const size_t num_released = num_held_ + num_at_end - num_kept;
  const size_t num_before = num_released < num_held_ ? num_released : num_held_;
  for (size_t i = 0; i < num_before; ++i) out->append(rules.strip);
  out->append(text.substr(0, end));
  for (size_t i = num_before; i < num_released; ++i) out->append(rules.strip);
  num_held_ = num_kept;
}

void DecodeStream::AppendHeld(std::string* out) const {
  DecodeStream copy = *this;
  copy.Flush(out);
}

void DecodeStream::Flush(std::string* out) {
  if (table_->rules().bytes == DecodeRules::Bytes::kLossy) {
    std::string text;
    AppendLossy(pending_, /*final=*/true, &text);
    pending_.clear();
    PushText(text, out);
  } else {
    EndByteRun(out);
  }
  num_held_ = 0;
}

}  // namespace tessera
