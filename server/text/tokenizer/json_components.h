// The parts of a tokenizer.json, read into the room's own types. What is not supported is
// UNIMPLEMENTED and named, what is malformed is INVALID_ARGUMENT. Used by json_tokenizer.cc at load
// time only.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/types.h"
#include "server/text/tokenizer/added_tokens.h"
#include "server/text/tokenizer/json_access.h"
#include "server/text/tokenizer/normalizer.h"
#include "server/text/tokenizer/pre_tokenizer.h"
#include "server/text/tokenizer/token_table.h"

namespace tessera {

// What add_special puts around a text.
struct SpecialFrame {
  std::vector<TokenId> prefix;
  std::vector<TokenId> suffix;
};

// Each takes the component's JSON, or nullptr where the file has none.
absl::StatusOr<Normalizer> ParseNormalizer(const Json* json);
absl::StatusOr<PreTokenizer> ParsePreTokenizer(const Json* json);
absl::StatusOr<SpecialFrame> ParsePostProcessor(const Json* json, const TokenTable& table);

// Sets the table's rules and rewrites its pieces as the decoder says.
absl::Status ApplyDecoder(const Json* json, TokenTable* table);

// Parts that normalizers, pre-tokenizers and decoders share.
struct MetaspaceRule {
  std::string replacement;
  PreTokenizer::PrependScheme scheme = PreTokenizer::PrependScheme::kAlways;
  bool split = true;
};
absl::StatusOr<MetaspaceRule> ParseMetaspaceRule(const Json& json, const std::string& where);
absl::StatusOr<ReplaceRule> ParseReplaceRule(const Json& json, const std::string& where);

// An entry of added_tokens, of added_tokens_decoder or of a special token in tokenizer_config.json.
// A plain string is a token that is not normalized.
absl::StatusOr<AddedToken> ParseAddedToken(const Json& json, const std::string& where);

}  // namespace tessera
