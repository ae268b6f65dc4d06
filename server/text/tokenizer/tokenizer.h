// The room of tokenizers: text to ids and back, as Hugging Face does it, so that a model sees what
// it was trained on.
//
//   tokenizer.h      the face: load a folder, encode, decode          detokenizer.h   ids to text
//   while they are generated stop_matcher.h   stop strings across token borders utf8.h what counts
//   as text
//
// Two kinds stand behind the face: tokenizer.json (byte-pair encoding with its normalizers,
// pre-tokenizers, decoders and added tokens; json_tokenizer.cc) and SentencePiece's tokenizer.model
// (spm_tokenizer.cc). A Tokenizer is const and may be used from any number of threads at once.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/base/types.h"
#include "server/text/tokenizer/added_tokens.h"
#include "server/text/tokenizer/token_table.h"

namespace tessera {

class Tokenizer {
 public:
  // What a kind of tokenizer hands to the face.
  struct Parts {
    std::unique_ptr<const TokenTable> table;
    std::vector<AddedToken> raw_tokens;  // found in the text as it comes, ids set
    std::vector<TokenId> prefix;
    std::vector<TokenId> suffix;
    std::optional<TokenId> bos_id;
    std::optional<TokenId> eos_id;
  };

  virtual ~Tokenizer() = default;
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // The ids of a text. Special-token strings in the text count as those tokens; add_special puts
  // around it what the model wants (BOS, usually). Text that is not UTF-8 is read with U+FFFD in
  // place of the faults: refuse it before (ValidateUtf8).
  std::vector<TokenId> Encode(std::string_view text, bool add_special) const;

  // The text of ids, as Hugging Face's decode gives it without clean-up. Unknown ids add nothing.
  std::string Decode(std::span<const TokenId> ids, bool skip_special) const;

  // Highest id + 1, added tokens included. A model's own vocabulary may be larger (padding), never
  // smaller.
  int64_t vocab_size() const { return table_->size(); }
  std::optional<TokenId> bos_id() const { return bos_id_; }
  std::optional<TokenId> eos_id() const { return eos_id_; }

  bool IsSpecial(TokenId id) const { return table_->Has(id) && table_->is_special(id); }
  std::optional<TokenId> TokenToId(std::string_view token) const { return table_->Find(token); }
  // The token as the files write it; empty for unknown ids.
  std::string_view TokenText(TokenId id) const;
  // The bytes that the token adds to a text (in mid-text); empty for unknown ids.
  std::string_view TokenBytes(TokenId id) const;

  const TokenTable& table() const { return *table_; }

 protected:
  explicit Tokenizer(Parts parts);

 private:
  // Appends the ids of a text without raw added tokens. `at_origin`: it begins where the whole text
  // begins. REQUIRES: text is valid UTF-8 and not empty.
  virtual void EncodeText(std::string_view text, bool at_origin,
                          std::vector<TokenId>* ids) const = 0;

  const std::unique_ptr<const TokenTable> table_;
  const AddedTokenSplitter raw_splitter_;
  const std::vector<TokenId> prefix_;
  const std::vector<TokenId> suffix_;
  const std::optional<TokenId> bos_id_;
  const std::optional<TokenId> eos_id_;
};

// Loads the tokenizer of a Hugging Face model folder: tokenizer.json where it is there and
// supported, else tokenizer.model; tokenizer_config.json and special_tokens_map.json add what they
// say about special tokens.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& model_dir);

// One kind only. The file must be there.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadJsonTokenizer(const std::string& model_dir);
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadSentencePieceTokenizer(const std::string& model_dir);

}  // namespace tessera
