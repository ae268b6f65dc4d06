// Reads special tokens and their options from tokenizer_config.json, special_tokens_map.json and
// added_tokens.json. Called at load time; any thread.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/text/tokenizer/added_tokens.h"
#include "server/text/tokenizer/token_table.h"

namespace tessera {

struct TokenizerConfig {
  std::string tokenizer_class;
  std::optional<bool> add_bos_token;
  std::optional<bool> add_eos_token;
  std::optional<std::string> bos_token;
  std::optional<std::string> eos_token;
  // The texts of the tokens with names like "pad_token" or "image_token", by these names, as in
  // Hugging Face's special_tokens_map.
  std::vector<std::pair<std::string, std::string>> named_tokens;
  // Whether each text between added tokens gets SentencePiece's dummy prefix. If false, only the
  // start of the whole text gets a prefix, if add_prefix_space is true. For tokenizer.model only.
  bool legacy = true;
  bool add_prefix_space = true;
  // The entries of added_tokens_decoder, or of added_tokens.json if there is no
  // added_tokens_decoder, sorted by id.
  std::vector<AddedToken> added_tokens;
  // The entries come from added_tokens.json, which has no flags: what another file says of a token
  // holds.
  bool added_without_flags = false;
  // The named special tokens: bos, eos, unk, pad, ..., and the additional special tokens.
  std::vector<AddedToken> special_tokens;

  // Returns true for Llama's and Gemma's tokenizers, where add_bos_token and add_eos_token override
  // the post-processor of tokenizer.json.
  bool RulesFrame() const;
};

// A missing file contributes nothing; a malformed file is an error.
absl::StatusOr<TokenizerConfig> ReadTokenizerConfig(const std::string& model_dir);

// Returns the added tokens of `config` that may change `tokens`, the tokens of the tokenizer's own
// file: all of them, or only further ones if they have no flags.
std::vector<AddedToken> AddedTokensBeside(const TokenizerConfig& config,
                                          const std::vector<AddedToken>& tokens);

// Merges another source of added tokens into *tokens, and adds new tokens to *table. As in Hugging
// Face, the last description of a token wins, but a special token stays special. A token without an
// id whose content is in no vocabulary is left out.
absl::Status MergeAddedTokens(const std::vector<AddedToken>& more, bool ignore_conflicts,
                              TokenTable* table, std::vector<AddedToken>* tokens);

}  // namespace tessera
