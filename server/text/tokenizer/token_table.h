// The table of all token ids: the string of each token as the files write it, the piece that the
// token adds to decoded text, and the rules that join pieces to text. A loader fills the table,
// which is immutable afterwards; any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "kernels/base/types.h"

namespace tessera {

// The largest token id that is accepted. The table is dense, so a huge id would waste memory; real
// vocabularies are far smaller.
inline constexpr int64_t kMaxTokenId = (int64_t{1} << 21) - 1;

// The rules that join pieces to text. Every supported chain of Hugging Face decoders is compiled to
// one piece per token and these rules.
struct DecodeRules {
  enum class Bytes {
    // Pieces are text.
    kNone,
    // Pieces are bytes; bytes that are not UTF-8 become U+FFFD (byte-level BPE).
    kLossy,
    // Pieces are text or single bytes. A run of byte tokens that is not UTF-8 becomes one U+FFFD
    // per byte (byte fallback).
    kByRuns,
  };
  Bytes bytes = Bytes::kNone;
  // The text between two tokens. Hugging Face joins tokens with a space if there is no decoder.
  std::string separator;
  // A string that is removed from the first token instead of becoming a space (the Metaspace
  // decoder); empty: unused.
  std::string first_token_drops;
  std::string strip;       // code point to strip at both ends of the text; empty: unused
  size_t strip_begin = 0;  // largest number of code points stripped at the start
  size_t strip_end = 0;    // largest number of code points stripped at the end
};

class TokenTable final {
 public:
  // Adds a token. `in_model` is true for a token of the model's vocabulary and false for an added
  // token. Returns an error if another token has this id or this string.
  absl::Status Add(int64_t id, std::string content, bool in_model);
  void MarkSpecial(TokenId id) { entries_[id].special = true; }
  void UnmarkSpecial(TokenId id) { entries_[id].special = false; }
  // Sets the piece that the token adds to decoded text; the default is its content. `is_byte` marks
  // a byte-fallback token.
  void SetPiece(TokenId id, std::string piece, bool is_byte);
  void set_rules(DecodeRules rules) { rules_ = std::move(rules); }

  // Highest id + 1.
  int64_t size() const { return static_cast<int64_t>(entries_.size()); }
  bool Has(int64_t id) const { return id >= 0 && id < size() && entries_[id].present; }
  // REQUIRES for the next four methods: Has(id).
  const std::string& content(TokenId id) const { return entries_[id].content; }
  const std::string& piece(TokenId id) const {
    return entries_[id].has_piece ? entries_[id].piece : entries_[id].content;
  }
  bool is_byte(TokenId id) const { return entries_[id].byte; }
  bool is_special(TokenId id) const { return entries_[id].special; }

  std::optional<TokenId> Find(std::string_view content) const;
  std::optional<TokenId> FindInModel(std::string_view content) const;
  const DecodeRules& rules() const { return rules_; }

 private:
  // A transparent hash, so that a std::string_view can be looked up without a copy.
  struct StringHash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  struct Entry {
    std::string content;
    std::string piece;
    bool present = false;
    bool in_model = false;
    bool special = false;
    bool byte = false;
    bool has_piece = false;
  };

  std::vector<Entry> entries_;  // indexed by token id
  absl::flat_hash_map<std::string, TokenId, StringHash, std::equal_to<>> ids_;
  DecodeRules rules_;
};

}  // namespace tessera
