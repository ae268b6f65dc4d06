#include "server/text/tokenizer/tokenizer_config.h"

#include <algorithm>
#include <charconv>

#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "server/text/tokenizer/json_access.h"
#include "server/text/tokenizer/json_components.h"

namespace tessera {
namespace {

constexpr const char* kNamedTokens[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                        "pad_token", "cls_token", "mask_token"};

bool Contains(const std::vector<AddedToken>& tokens, const std::string& content) {
  return std::any_of(tokens.begin(), tokens.end(),
                     [&](const AddedToken& token) { return token.content == content; });
}

absl::Status AddSpecial(const Json& json, const std::string& where, TokenizerConfig* config) {
  ASSIGN_OR_RETURN(AddedToken token, ParseAddedToken(json, where));
  token.special = true;
  if (json.is_object() && FindMember(json, "normalized") == nullptr) token.normalized = false;
  token.id = -1;
  if (!token.content.empty() && !Contains(config->special_tokens, token.content)) {
    config->special_tokens.push_back(std::move(token));
  }
  return absl::OkStatus();
}

// Reads the named special tokens of a file. A value from an earlier file is kept.
absl::Status ReadNamedTokens(const Json& json, const std::string& file, TokenizerConfig* config) {
  for (const char* name : kNamedTokens) {
    const Json* value = FindMember(json, name);
    if (value == nullptr) continue;
    const std::string where = file + ": '" + name + "'";
    if (!value->is_string() && !value->is_object()) {
      return absl::InvalidArgumentError(where + " must be a string or an object");
    }
    ASSIGN_OR_RETURN(const AddedToken token, ParseAddedToken(*value, where));
    if (std::string_view(name) == "bos_token" && !config->bos_token.has_value()) {
      config->bos_token = token.content;
    }
    if (std::string_view(name) == "eos_token" && !config->eos_token.has_value()) {
      config->eos_token = token.content;
    }
    RETURN_IF_ERROR(AddSpecial(*value, where, config));
  }
  const Json* additional = FindMember(json, "additional_special_tokens");
  if (additional == nullptr || !additional->is_array()) return absl::OkStatus();
  for (const Json& value : additional->array()) {
    if (!value.is_string() && !value.is_object()) continue;
    RETURN_IF_ERROR(AddSpecial(value, file + ": 'additional_special_tokens'", config));
  }
  return absl::OkStatus();
}

void SortById(std::vector<AddedToken>* tokens) {
  std::sort(tokens->begin(), tokens->end(),
            [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
}

// Adds the text of a token under its name, unless the name is known or `value` is no token.
void AddTokenName(const std::string& name, const Json& value, TokenizerConfig* config) {
  const Json* text = value.is_object() ? FindMember(value, "content") : &value;
  if (text == nullptr || !text->is_string()) return;
  for (const auto& [known, content] : config->named_tokens) {
    if (known == name) return;
  }
  config->named_tokens.emplace_back(name, text->string());
}

// Reads the names of tokens: members such as "pad_token", and the members of the mapping
// "extra_special_tokens". A name from an earlier file is kept.
void ReadTokenNames(const Json& json, TokenizerConfig* config) {
  if (!json.is_object()) return;
  for (const JsonMember& member : json.object()) {
    if (std::string_view(member.key).ends_with("_token")) {
      AddTokenName(member.key, member.value, config);
    }
  }
  const Json* extra = FindMember(json, "extra_special_tokens");
  if (extra == nullptr || !extra->is_object()) return;
  for (const JsonMember& member : extra->object()) AddTokenName(member.key, member.value, config);
}

absl::Status ReadAddedTokensDecoder(const Json& json, const std::string& file,
                                    TokenizerConfig* config) {
  const Json* decoder = FindMember(json, "added_tokens_decoder");
  if (decoder == nullptr || !decoder->is_object()) return absl::OkStatus();
  for (const auto& [key, value] : decoder->object()) {
    std::string where = file;
    where.append(": added_tokens_decoder['").append(key).append("']");
    int64_t id = -1;
    const auto parsed = std::from_chars(key.data(), key.data() + key.size(), id);
    if (parsed.ec != std::errc() || parsed.ptr != key.data() + key.size()) {
      return absl::InvalidArgumentError(where + ": the key must be a token id");
    }
    ASSIGN_OR_RETURN(AddedToken token, ParseAddedToken(value, where));
    token.id = id;
    if (!token.content.empty()) config->added_tokens.push_back(std::move(token));
  }
  SortById(&config->added_tokens);
  return absl::OkStatus();
}

absl::StatusOr<Json> ReadOptionalJson(const std::string& path) {
  absl::StatusOr<std::string> bytes = ReadTokenizerFile(path);
  if (absl::IsNotFound(bytes.status())) return Json(Json::Object());
  if (!bytes.ok()) return bytes.status();
  return ParseJson(*bytes, path);
}

// Reads added_tokens.json, an object of token ids by content. Only the named special tokens, which
// must be read before, are special.
absl::Status ReadAddedTokensFile(const std::string& path, TokenizerConfig* config) {
  ASSIGN_OR_RETURN(const Json json, ReadOptionalJson(path));
  for (const auto& [content, id] : json.object()) {
    std::string where = path;
    where.append(": '").append(content).append("'");
    AddedToken token;
    ASSIGN_OR_RETURN(token.id, AsInt(id, where));
    token.content = content;
    token.special = Contains(config->special_tokens, content);
    token.normalized = !token.special;
    if (!content.empty()) config->added_tokens.push_back(std::move(token));
  }
  SortById(&config->added_tokens);
  config->added_without_flags = true;
  return absl::OkStatus();
}

}  // namespace

bool TokenizerConfig::RulesFrame() const {
  for (const std::string_view family : {"Llama", "CodeLlama", "Gemma"}) {
    const std::string name = std::string(family) + "Tokenizer";
    if (tokenizer_class == name || tokenizer_class == name + "Fast") return true;
  }
  return false;
}

absl::StatusOr<TokenizerConfig> ReadTokenizerConfig(const std::string& model_dir) {
  TokenizerConfig config;
  const std::string path = model_dir + "/tokenizer_config.json";
  ASSIGN_OR_RETURN(const Json json, ReadOptionalJson(path));
  ASSIGN_OR_RETURN(const std::optional<std::string> name,
                   OptionalString(json, "tokenizer_class", path));
  config.tokenizer_class = name.value_or("");
  if (FindMember(json, "add_bos_token") != nullptr) {
    ASSIGN_OR_RETURN(config.add_bos_token, BoolOr(json, "add_bos_token", false, path));
  }
  if (FindMember(json, "add_eos_token") != nullptr) {
    ASSIGN_OR_RETURN(config.add_eos_token, BoolOr(json, "add_eos_token", false, path));
  }
  ASSIGN_OR_RETURN(config.legacy, BoolOr(json, "legacy", true, path));
  ASSIGN_OR_RETURN(config.add_prefix_space, BoolOr(json, "add_prefix_space", true, path));
  RETURN_IF_ERROR(ReadAddedTokensDecoder(json, path, &config));
  RETURN_IF_ERROR(ReadNamedTokens(json, path, &config));
  ReadTokenNames(json, &config);
  const std::string map_path = model_dir + "/special_tokens_map.json";
  ASSIGN_OR_RETURN(const Json map, ReadOptionalJson(map_path));
  RETURN_IF_ERROR(ReadNamedTokens(map, map_path, &config));
  // The older file of the added tokens. transformers reads it if the newer key is absent.
  if (FindMember(json, "added_tokens_decoder") == nullptr) {
    RETURN_IF_ERROR(ReadAddedTokensFile(model_dir + "/added_tokens.json", &config));
  }
  ReadTokenNames(map, &config);
  return config;
}

std::vector<AddedToken> AddedTokensBeside(const TokenizerConfig& config,
                                          const std::vector<AddedToken>& tokens) {
  std::vector<AddedToken> more = config.added_tokens;
  if (!config.added_without_flags) return more;
  std::erase_if(more, [&](const AddedToken& token) {
    return std::any_of(tokens.begin(), tokens.end(),
                       [&](const AddedToken& known) { return known.content == token.content; });
  });
  return more;
}

absl::Status MergeAddedTokens(const std::vector<AddedToken>& more, bool ignore_conflicts,
                              TokenTable* table, std::vector<AddedToken>* tokens) {
  for (const AddedToken& described : more) {
    if (described.content.empty()) continue;
    AddedToken token = described;
    if (const std::optional<TokenId> known = table->Find(token.content); known.has_value()) {
      token.id = *known;
    } else if (token.id < 0) {
      continue;
    } else if (absl::Status added = table->Add(token.id, token.content, /*in_model=*/false);
               !added.ok()) {
      if (!ignore_conflicts) return added;
      TLOG_WARN("added tokens of the tokenizer: {}; the entry is left out",
                std::string(added.message()));
      continue;
    }
    const auto same = std::find_if(tokens->begin(), tokens->end(),
                                   [&](const AddedToken& other) { return other.id == token.id; });
    if (same == tokens->end()) {
      tokens->push_back(token);
    } else {
      token.special = token.special || same->special;
      *same = token;
    }
    if (token.special) table->MarkSpecial(static_cast<TokenId>(token.id));
  }
  return absl::OkStatus();
}

}  // namespace tessera
