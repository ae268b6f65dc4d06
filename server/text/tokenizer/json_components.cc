#include "server/text/tokenizer/json_components.h"

#include <optional>
#include <utility>

#include "kernels/base/status.h"
#include "server/text/tokenizer/utf8.h"

namespace tessera {
namespace {

constexpr int kMaxNesting = 16;
// GPT-2's pattern for words. A ByteLevel pre-tokenizer uses it unless `use_regex` is false.
constexpr std::string_view kGpt2Pattern =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

absl::Status UnsupportedType(const std::string& where, const std::string& type,
                             const std::string& supported) {
  return absl::UnimplementedError(where + " of type '" + type +
                                  "' is not supported (supported: " + supported + ")");
}

absl::Status At(const std::string& where, const absl::Status& status) {
  return absl::Status(status.code(), where + ": " + std::string(status.message()));
}

absl::StatusOr<Regex> CompileAt(std::string_view pattern, const std::string& where) {
  absl::StatusOr<Regex> regex = Regex::Compile(pattern);
  if (!regex.ok()) return At(where + ".pattern", regex.status());
  return regex;
}

// A pattern that the file writes as {"String": s} or {"Regex": s}.
struct Pattern {
  std::string literal;
  std::optional<Regex> regex;
};
absl::StatusOr<Pattern> ParsePattern(const Json& json, const std::string& where) {
  ASSIGN_OR_RETURN(const Json* pattern, RequiredObject(json, "pattern", where));
  Pattern result;
  ASSIGN_OR_RETURN(const std::optional<std::string> literal,
                   OptionalString(*pattern, "String", where + ".pattern"));
  if (literal.has_value()) {
    if (literal->empty()) {
      return absl::InvalidArgumentError(where + ".pattern.String must not be empty");
    }
    result.literal = *literal;
    return result;
  }
  ASSIGN_OR_RETURN(const std::string regex, RequiredString(*pattern, "Regex", where + ".pattern"));
  ASSIGN_OR_RETURN(result.regex, CompileAt(regex, where));
  return result;
}

absl::StatusOr<std::string> RequiredCharacter(const Json& json, const char* key,
                                              const std::string& where) {
  ASSIGN_OR_RETURN(std::string text, RequiredString(json, key, where));
  if (text.empty() || NextUtf8(text, 0).length != text.size()) {
    return absl::InvalidArgumentError(where + ": '" + key + "' must be one character");
  }
  return text;
}

absl::Status AddNormalizers(const Json& json, const std::string& where, int depth,
                            Normalizer* out) {
  if (depth > kMaxNesting) return absl::InvalidArgumentError(where + " is nested too deeply");
  ASSIGN_OR_RETURN(const std::string type, RequiredString(json, "type", where));
  if (type == "Sequence") {
    ASSIGN_OR_RETURN(const Json* list, RequiredArray(json, "normalizers", where));
    for (size_t i = 0; i < list->array().size(); ++i) {
      RETURN_IF_ERROR(AddNormalizers(
          list->array()[i], where + ".normalizers[" + std::to_string(i) + "]", depth + 1, out));
    }
  } else if (type == "NFC") {
    out->AddForm(Normalizer::Form::kNfc);
  } else if (type == "NFD") {
    out->AddForm(Normalizer::Form::kNfd);
  } else if (type == "NFKC") {
    out->AddForm(Normalizer::Form::kNfkc);
  } else if (type == "NFKD") {
    out->AddForm(Normalizer::Form::kNfkd);
  } else if (type == "Prepend") {
    ASSIGN_OR_RETURN(std::string prepend, RequiredString(json, "prepend", where));
    out->AddPrepend(std::move(prepend));
  } else if (type == "Replace") {
    ASSIGN_OR_RETURN(ReplaceRule rule, ParseReplaceRule(json, where));
    out->AddReplace(std::move(rule));
  } else if (type == "ByteLevel") {
    out->AddByteLevel();
  } else {
    return UnsupportedType(where, type,
                           "NFC, NFD, NFKC, NFKD, Prepend, Replace, ByteLevel, Sequence");
  }
  return absl::OkStatus();
}

absl::StatusOr<SplitBehavior> ParseBehavior(const Json& json, const std::string& where,
                                            const char* fallback) {
  ASSIGN_OR_RETURN(const std::optional<std::string> name, OptionalString(json, "behavior", where));
  const std::string behavior = name.value_or(fallback);
  if (behavior == "Removed") return SplitBehavior::kRemoved;
  if (behavior == "Isolated") return SplitBehavior::kIsolated;
  if (behavior == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (behavior == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (behavior == "Contiguous") return SplitBehavior::kContiguous;
  return absl::InvalidArgumentError(where + ": unknown behavior '" + behavior + "'");
}

// Reads prepend_scheme, or add_prefix_space, which older files have instead.
absl::StatusOr<PreTokenizer::PrependScheme> ParseScheme(const Json& json,
                                                        const std::string& where) {
  ASSIGN_OR_RETURN(const std::optional<std::string> name,
                   OptionalString(json, "prepend_scheme", where));
  ASSIGN_OR_RETURN(const bool prefix, BoolOr(json, "add_prefix_space", true, where));
  if (!name.has_value()) {
    return prefix ? PreTokenizer::PrependScheme::kAlways : PreTokenizer::PrependScheme::kNever;
  }
  if (*name == "never") return PreTokenizer::PrependScheme::kNever;
  if (*name == "always") return PreTokenizer::PrependScheme::kAlways;
  if (*name == "first") return PreTokenizer::PrependScheme::kFirst;
  return absl::InvalidArgumentError(where + ": unknown prepend_scheme '" + *name + "'");
}

absl::Status AddPreTokenizers(const Json& json, const std::string& where, int depth,
                              PreTokenizer* out) {
  if (depth > kMaxNesting) return absl::InvalidArgumentError(where + " is nested too deeply");
  ASSIGN_OR_RETURN(const std::string type, RequiredString(json, "type", where));
  if (type == "Sequence") {
    ASSIGN_OR_RETURN(const Json* list, RequiredArray(json, "pretokenizers", where));
    for (size_t i = 0; i < list->array().size(); ++i) {
      RETURN_IF_ERROR(AddPreTokenizers(
          list->array()[i], where + ".pretokenizers[" + std::to_string(i) + "]", depth + 1, out));
    }
  } else if (type == "ByteLevel") {
    ASSIGN_OR_RETURN(const bool prefix, BoolOr(json, "add_prefix_space", true, where));
    ASSIGN_OR_RETURN(const bool use_regex, BoolOr(json, "use_regex", true, where));
    std::optional<Regex> regex;
    if (use_regex) {
      ASSIGN_OR_RETURN(regex, CompileAt(kGpt2Pattern, where));
    }
    out->AddByteLevel(prefix, std::move(regex));
  } else if (type == "Split") {
    ASSIGN_OR_RETURN(Pattern pattern, ParsePattern(json, where));
    ASSIGN_OR_RETURN(const SplitBehavior behavior, ParseBehavior(json, where, "?"));
    ASSIGN_OR_RETURN(const bool invert, BoolOr(json, "invert", false, where));
    out->AddSplit(std::move(pattern.regex), std::move(pattern.literal), behavior, invert);
  } else if (type == "Digits") {
    ASSIGN_OR_RETURN(const bool individual, BoolOr(json, "individual_digits", false, where));
    out->AddCharacterSplit(IsUnicodeNumeric,
                           individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous);
  } else if (type == "Punctuation") {
    ASSIGN_OR_RETURN(const SplitBehavior behavior, ParseBehavior(json, where, "Isolated"));
    out->AddCharacterSplit(IsUnicodePunctuation, behavior);
  } else if (type == "WhitespaceSplit") {
    out->AddCharacterSplit(IsUnicodeSpace, SplitBehavior::kRemoved);
  } else if (type == "Metaspace") {
    ASSIGN_OR_RETURN(MetaspaceRule rule, ParseMetaspaceRule(json, where));
    out->AddMetaspace(std::move(rule.replacement), rule.scheme, rule.split);
  } else {
    return UnsupportedType(
        where, type, "ByteLevel, Split, Digits, Punctuation, WhitespaceSplit, Metaspace, Sequence");
  }
  return absl::OkStatus();
}

// Reads the ids of one special token of a TemplateProcessing component.
absl::StatusOr<std::vector<TokenId>> TemplateIds(const Json& special_tokens,
                                                 const std::string& name, const TokenTable& table,
                                                 const std::string& where) {
  std::string place = where;
  place.append(".").append(name);
  ASSIGN_OR_RETURN(const Json* entry, RequiredObject(special_tokens, name.c_str(), where));
  ASSIGN_OR_RETURN(const Json* ids, RequiredArray(*entry, "ids", place));
  std::vector<TokenId> result;
  for (const Json& json : ids->array()) {
    ASSIGN_OR_RETURN(const int64_t id, AsInt(json, place));
    if (!table.Has(id)) {
      return absl::InvalidArgumentError(place + ": no token has the id " + std::to_string(id));
    }
    result.push_back(static_cast<TokenId>(id));
  }
  return result;
}

absl::StatusOr<SpecialFrame> ParseTemplate(const Json& json, const TokenTable& table,
                                           const std::string& where) {
  ASSIGN_OR_RETURN(const Json* single, RequiredArray(json, "single", where));
  const Json none{Json::Object()};
  const Json* special_tokens = FindMember(json, "special_tokens");
  if (special_tokens == nullptr) special_tokens = &none;
  SpecialFrame frame;
  int num_sequences = 0;
  for (const Json& piece : single->array()) {
    if (FindMember(piece, "Sequence") != nullptr) {
      ++num_sequences;
      continue;
    }
    ASSIGN_OR_RETURN(const Json* special, RequiredObject(piece, "SpecialToken", where + ".single"));
    ASSIGN_OR_RETURN(const std::string name,
                     RequiredString(*special, "id", where + ".single.SpecialToken"));
    ASSIGN_OR_RETURN(const std::vector<TokenId> ids,
                     TemplateIds(*special_tokens, name, table, where + ".special_tokens"));
    std::vector<TokenId>& side = num_sequences == 0 ? frame.prefix : frame.suffix;
    side.insert(side.end(), ids.begin(), ids.end());
  }
  if (num_sequences != 1) {
    return absl::UnimplementedError(where + ".single must have the sequence exactly once");
  }
  return frame;
}

// Reads a token as RobertaProcessing and BertProcessing write it: ["<s>", 0].
absl::StatusOr<TokenId> NamedId(const Json& json, const char* key, const TokenTable& table,
                                const std::string& where) {
  ASSIGN_OR_RETURN(const Json* pair, RequiredArray(json, key, where));
  if (pair->array().size() != 2)
    return absl::InvalidArgumentError(where + "." + key + " must be a pair");
  ASSIGN_OR_RETURN(const int64_t id, AsInt(pair->array()[1], where + "." + key));
  if (!table.Has(id)) {
    return absl::InvalidArgumentError(where + "." + key + ": no token has the id " +
                                      std::to_string(id));
  }
  return static_cast<TokenId>(id);
}

absl::Status AddPostProcessors(const Json& json, const TokenTable& table, const std::string& where,
                               int depth, SpecialFrame* out) {
  if (depth > kMaxNesting) return absl::InvalidArgumentError(where + " is nested too deeply");
  ASSIGN_OR_RETURN(const std::string type, RequiredString(json, "type", where));
  if (type == "ByteLevel") return absl::OkStatus();  // changes only offsets, which are not used
  if (type == "Sequence") {
    ASSIGN_OR_RETURN(const Json* list, RequiredArray(json, "processors", where));
    for (size_t i = 0; i < list->array().size(); ++i) {
      RETURN_IF_ERROR(AddPostProcessors(list->array()[i], table,
                                        where + ".processors[" + std::to_string(i) + "]", depth + 1,
                                        out));
    }
    return absl::OkStatus();
  }
  SpecialFrame frame;
  if (type == "TemplateProcessing") {
    ASSIGN_OR_RETURN(frame, ParseTemplate(json, table, where));
  } else if (type == "RobertaProcessing" || type == "BertProcessing") {
    ASSIGN_OR_RETURN(const TokenId cls, NamedId(json, "cls", table, where));
    ASSIGN_OR_RETURN(const TokenId sep, NamedId(json, "sep", table, where));
    frame.prefix.push_back(cls);
    frame.suffix.push_back(sep);
  } else {
    return UnsupportedType(
        where, type, "TemplateProcessing, ByteLevel, RobertaProcessing, BertProcessing, Sequence");
  }
  out->prefix.insert(out->prefix.begin(), frame.prefix.begin(), frame.prefix.end());
  out->suffix.insert(out->suffix.end(), frame.suffix.begin(), frame.suffix.end());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<MetaspaceRule> ParseMetaspaceRule(const Json& json, const std::string& where) {
  MetaspaceRule rule;
  ASSIGN_OR_RETURN(rule.replacement, RequiredCharacter(json, "replacement", where));
  ASSIGN_OR_RETURN(rule.scheme, ParseScheme(json, where));
  ASSIGN_OR_RETURN(rule.split, BoolOr(json, "split", true, where));
  return rule;
}

absl::StatusOr<ReplaceRule> ParseReplaceRule(const Json& json, const std::string& where) {
  ASSIGN_OR_RETURN(Pattern pattern, ParsePattern(json, where));
  ASSIGN_OR_RETURN(std::string content, RequiredString(json, "content", where));
  return ReplaceRule{std::move(pattern.literal), std::move(pattern.regex), std::move(content)};
}

absl::StatusOr<Normalizer> ParseNormalizer(const Json* json) {
  Normalizer normalizer;
  if (json != nullptr) RETURN_IF_ERROR(AddNormalizers(*json, "normalizer", 0, &normalizer));
  return normalizer;
}

absl::StatusOr<PreTokenizer> ParsePreTokenizer(const Json* json) {
  PreTokenizer pre_tokenizer;
  if (json != nullptr) RETURN_IF_ERROR(AddPreTokenizers(*json, "pre_tokenizer", 0, &pre_tokenizer));
  return pre_tokenizer;
}

absl::StatusOr<SpecialFrame> ParsePostProcessor(const Json* json, const TokenTable& table) {
  SpecialFrame frame;
  if (json != nullptr) {
    RETURN_IF_ERROR(AddPostProcessors(*json, table, "post_processor", 0, &frame));
  }
  return frame;
}

absl::StatusOr<AddedToken> ParseAddedToken(const Json& json, const std::string& where) {
  AddedToken token;
  if (json.is_string()) {
    token.content = json.string();
    token.normalized = false;
    return token;
  }
  ASSIGN_OR_RETURN(token.content, RequiredString(json, "content", where));
  ASSIGN_OR_RETURN(token.id, IntOr(json, "id", -1, where));
  ASSIGN_OR_RETURN(token.single_word, BoolOr(json, "single_word", false, where));
  ASSIGN_OR_RETURN(token.lstrip, BoolOr(json, "lstrip", false, where));
  ASSIGN_OR_RETURN(token.rstrip, BoolOr(json, "rstrip", false, where));
  ASSIGN_OR_RETURN(token.special, BoolOr(json, "special", false, where));
  ASSIGN_OR_RETURN(token.normalized, BoolOr(json, "normalized", !token.special, where));
  return token;
}

}  // namespace tessera
