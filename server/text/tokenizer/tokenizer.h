// The tokenizers: text to token ids and back, with the results of Hugging Face's tokenizers, so
// that a model gets the ids it was trained on. The main headers of this room:
//
//     tokenizer.h      loads a model folder's tokenizer, encodes and decodes
//
//     detokenizer.h    decodes token ids while they are generated
//
//     stop_matcher.h   finds stop strings that span several tokens
//
//     utf8.h           checks and decodes UTF-8
//
// There are two implementations: tokenizer.json (byte-pair encoding with normalizers,
// pre-tokenizers, decoders and added tokens; json_tokenizer.cc) and SentencePiece's tokenizer.model
// (spm_tokenizer.cc). A Tokenizer is immutable; any number of threads may use it at once.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/base/types.h"
#include "server/text/tokenizer/added_tokens.h"
#include "server/text/tokenizer/token_table.h"

namespace tessera {

class Tokenizer {
 public:
  // The data that an implementation passes to this base class.
  struct Parts {
    std::unique_ptr<const TokenTable> table;
    std::vector<AddedToken> raw_tokens;  // tokens to search in the raw text; their ids are set
    std::vector<TokenId> prefix;
    std::vector<TokenId> suffix;
    std::optional<TokenId> bos_id;
    std::optional<TokenId> eos_id;
    std::vector<std::pair<std::string, std::string>> named_tokens;
  };

  virtual ~Tokenizer() = default;
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // Encodes a text. The string of a special token in the text becomes that token. `add_special`
  // adds the model's special tokens around the text (usually BOS). Invalid UTF-8 is read as U+FFFD,
  // so callers should refuse it before (ValidateUtf8).
  std::vector<TokenId> Encode(std::string_view text, bool add_special) const;

  // Returns the text that a part of a text with placeholders stands for.
  using Restore = std::function<std::string(std::string_view)>;
  // Encodes a text with placeholders, without special tokens around it. Added tokens are searched
  // in the text as it is; `restore` then gives the text of each part between them. So the text of a
  // placeholder never becomes a special token. REQUIRES: !normalizes_special().
  std::vector<TokenId> EncodeRestored(std::string_view text, const Restore& restore) const;

  // The special tokens that Encode finds in the text, in order.
  std::vector<AddedTokenSplitter::Part> FindSpecial(std::string_view text) const;
  // Whether Encode also searches special tokens in normalized text, where FindSpecial does not.
  bool normalizes_special() const { return normalizes_special_; }

  // The characters of the strings of all special tokens, each once, in ascending order.
  const std::vector<char32_t>& special_characters() const { return special_characters_; }

  // Decodes ids with the result of Hugging Face's `decode` without clean-up of spaces. An unknown
  // id adds no text.
  std::string Decode(std::span<const TokenId> ids, bool skip_special) const;

  // The highest id + 1, including added tokens. A model's embedding table may have more rows
  // (padding) but never fewer.
  int64_t vocab_size() const { return table_->size(); }
  std::optional<TokenId> bos_id() const { return bos_id_; }
  std::optional<TokenId> eos_id() const { return eos_id_; }
  // The texts of special tokens by their names, such as {"bos_token", "<s>"}, for chat templates.
  const std::vector<std::pair<std::string, std::string>>& named_tokens() const {
    return named_tokens_;
  }

  bool IsSpecial(TokenId id) const { return table_->Has(id) && table_->is_special(id); }
  std::optional<TokenId> TokenToId(std::string_view token) const { return table_->Find(token); }
  // The token's string as the files write it; empty for an unknown id.
  std::string_view TokenText(TokenId id) const;
  // The bytes that the token adds in the middle of a text; empty for an unknown id.
  std::string_view TokenBytes(TokenId id) const;

  const TokenTable& table() const { return *table_; }

 protected:
  explicit Tokenizer(Parts parts);

 private:
  // Appends the ids of a text, which is valid UTF-8. A null `restore` leaves the text as it is.
  void AppendIds(std::string_view text, const Restore& restore, std::vector<TokenId>* ids) const;
  // Encodes a part of a text that contains no raw added tokens. `at_origin` is true if the part is
  // at the start of the whole text. REQUIRES: `text` is valid UTF-8 and not empty.
  virtual void EncodeText(std::string_view text, bool at_origin,
                          std::vector<TokenId>* ids) const = 0;
  // Appends what the tokenizer puts at the start of a text that begins with the added token
  // `first`.
  virtual void EncodeOrigin(TokenId first, std::vector<TokenId>* ids) const {}

  const std::unique_ptr<const TokenTable> table_;
  const AddedTokenSplitter raw_splitter_;
  const bool normalizes_special_;
  const std::vector<char32_t> special_characters_;
  const std::vector<TokenId> prefix_;
  const std::vector<TokenId> suffix_;
  const std::optional<TokenId> bos_id_;
  const std::optional<TokenId> eos_id_;
  const std::vector<std::pair<std::string, std::string>> named_tokens_;
};

// Loads the tokenizer of a Hugging Face model folder: tokenizer.json if it exists and is supported,
// else tokenizer.model. Added and special tokens also come from tokenizer_config.json,
// special_tokens_map.json and added_tokens.json.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& model_dir);

// These load one implementation only; its file must exist.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadJsonTokenizer(const std::string& model_dir);
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadSentencePieceTokenizer(const std::string& model_dir);

}  // namespace tessera
