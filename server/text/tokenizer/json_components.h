// Reads the components of a tokenizer.json (normalizer, pre-tokenizer, post-processor, decoder,
// added tokens). An unsupported component is an UNIMPLEMENTED error that names it; a malformed one
// is INVALID_ARGUMENT. json_tokenizer.cc calls these functions at load time; any thread.
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

// The special tokens that Encode adds around a text when add_special is true.
struct SpecialFrame {
  std::vector<TokenId> prefix;
  std::vector<TokenId> suffix;
};

// Each function takes the JSON of its component, or nullptr if the file does not have it.
absl::StatusOr<Normalizer> ParseNormalizer(const Json* json);
absl::StatusOr<PreTokenizer> ParsePreTokenizer(const Json* json);
absl::StatusOr<SpecialFrame> ParsePostProcessor(const Json* json, const TokenTable& table);

// Compiles the decoder into the table's decode rules and pieces.
absl::Status ApplyDecoder(const Json* json, TokenTable* table);

// These parts occur in normalizers, pre-tokenizers and decoders.
struct MetaspaceRule {
  std::string replacement;
  PreTokenizer::PrependScheme scheme = PreTokenizer::PrependScheme::kAlways;
  bool split = true;
};
absl::StatusOr<MetaspaceRule> ParseMetaspaceRule(const Json& json, const std::string& where);
absl::StatusOr<ReplaceRule> ParseReplaceRule(const Json& json, const std::string& where);

// Reads an added token: an entry of added_tokens or added_tokens_decoder, or a named special token
// of tokenizer_config.json. A plain string means a token that is not normalized.
absl::StatusOr<AddedToken> ParseAddedToken(const Json& json, const std::string& where);

}  // namespace tessera
