// What ids stand for: the token strings of the files, the piece of text each adds when decoded, and
// how pieces become text. Filled by a loader, then immutable; any thread.
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

// Larger ids are refused: tables are dense, and no vocabulary is near this.
inline constexpr int64_t kMaxTokenId = (int64_t{1} << 21) - 1;

// How pieces become text. Every supported chain of Hugging Face decoders compiles to per-token
// pieces plus these.
struct DecodeRules {
  enum class Bytes {
    kNone,    // pieces are text
    kLossy,   // pieces are bytes; what is not UTF-8 becomes U+FFFD (byte-level BPE)
    kByRuns,  // byte tokens among text; a run that is not UTF-8 becomes one U+FFFD a byte (byte
              // fallback)
  };
  Bytes bytes = Bytes::kNone;
  std::string
      separator;  // between tokens; Hugging Face joins with a space where there is no decoder
  // Removed from the first token instead of becoming a space (the Metaspace decoder); empty when
  // unused.
  std::string first_token_drops;
  std::string strip;       // one code point, stripped from both ends of the text; empty when unused
  size_t strip_begin = 0;  // at most so many at the beginning
  size_t strip_end = 0;    // and at the end
};

class TokenTable final {
 public:
  // Adds a token; `in_model` says that the model (not only an added token) knows it. An id or a
  // string that is already taken by another token is an error.
  absl::Status Add(int64_t id, std::string content, bool in_model);
  void MarkSpecial(TokenId id) { entries_[id].special = true; }
  void UnmarkSpecial(TokenId id) { entries_[id].special = false; }
  // Sets what the token adds to the text; `is_byte` marks a byte-fallback token. Without a call it
  // is the content.
  void SetPiece(TokenId id, std::string piece, bool is_byte);
  void set_rules(DecodeRules rules) { rules_ = std::move(rules); }

  // Highest id + 1.
  int64_t size() const { return static_cast<int64_t>(entries_.size()); }
  bool Has(int64_t id) const { return id >= 0 && id < size() && entries_[id].present; }
  // REQUIRES, for the four below: Has(id).
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
  // Lets std::string_view find std::string.
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

  std::vector<Entry> entries_;  // by id
  absl::flat_hash_map<std::string, TokenId, StringHash, std::equal_to<>> ids_;
  DecodeRules rules_;
};

}  // namespace tessera
