// What tokenizer_config.json and special_tokens_map.json say about special tokens. Read at load
// time.
#pragma once

#include <optional>
#include <string>
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
  // added_tokens_decoder, by id; then the named special tokens (bos, eos, unk, pad, ..., additional
  // ones).
  std::vector<AddedToken> added_tokens;
  std::vector<AddedToken> special_tokens;

  // Llama's and Gemma's tokenizers take BOS and EOS from this configuration, whatever
  // tokenizer.json says.
  bool RulesFrame() const;
};

// Files that are not there say nothing; malformed ones are an error.
absl::StatusOr<TokenizerConfig> ReadTokenizerConfig(const std::string& model_dir);

// Merges one more source of added tokens into `tokens` (and the table, where a token is new), as
// Hugging Face does: a content's last description wins, once special stays special. Tokens without
// an id that nothing knows are left out.
absl::Status MergeAddedTokens(const std::vector<AddedToken>& more, bool ignore_conflicts,
                              TokenTable* table, std::vector<AddedToken>* tokens);

}  // namespace tessera
