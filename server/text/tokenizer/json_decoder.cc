// Compiles the decoder of a tokenizer.json to pieces and rules (see DecodeRules).
#include <optional>
#include <utility>
#include <vector>

#include "kernels/base/status.h"
#include "server/text/tokenizer/byte_level.h"
#include "server/text/tokenizer/json_components.h"
#include "server/text/tokenizer/utf8.h"

namespace tessera {
namespace {

constexpr int kMaxNesting = 16;
constexpr int64_t kMaxStrip = 1024;

struct StripRule {
  std::string content;
  size_t begin = 0;
  size_t end = 0;
};

void StripToken(const StripRule& rule, std::string* token) {
  for (size_t i = 0; i < rule.begin && token->compare(0, rule.content.size(), rule.content) == 0;
       ++i) {
    token->erase(0, rule.content.size());
  }
  for (size_t i = 0; i < rule.end && token->size() >= rule.content.size(); ++i) {
    const size_t at = token->size() - rule.content.size();
    if (token->compare(at, std::string::npos, rule.content) != 0) break;
    token->erase(at);
  }
}

int HexValue(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Returns the byte of a byte-fallback token such as <0x0A>.
std::optional<char> FallbackByte(std::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return std::nullopt;
  const int high = HexValue(token[3]), low = HexValue(token[4]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<char>(high * 16 + low);
}

// Reads the chain of decoders. The supported order is: steps on single tokens, then at most one
// step that converts bytes to text, then steps on the whole text.
class DecoderChain {
 public:
  absl::Status Add(const Json& json, const std::string& where, int depth) {
    if (depth > kMaxNesting) return absl::InvalidArgumentError(where + " is nested too deeply");
    ASSIGN_OR_RETURN(const std::string type, RequiredString(json, "type", where));
    if (type == "Sequence") {
      ASSIGN_OR_RETURN(const Json* list, RequiredArray(json, "decoders", where));
      for (size_t i = 0; i < list->array().size(); ++i) {
        RETURN_IF_ERROR(
            Add(list->array()[i], where + ".decoders[" + std::to_string(i) + "]", depth + 1));
      }
      return absl::OkStatus();
    }
    if (type == "Fuse") {
      stage_ = Stage::kText;
      return absl::OkStatus();
    }
    if (type == "Strip") return AddStrip(json, where);
    if (type != "Replace" && type != "ByteFallback" && type != "ByteLevel" && type != "Metaspace") {
      return absl::UnimplementedError(
          where + " of type '" + type +
          "' is not supported (supported: ByteLevel, Replace, ByteFallback, Fuse, Strip, "
          "Metaspace, Sequence)");
    }
    if (stage_ != Stage::kTokens) return Misplaced(where, type);
    if (type == "Replace") return AddReplace(json, where);
    if (type == "Metaspace") return AddMetaspace(json, where);
    if (type == "ByteFallback") {
      rules_.bytes = DecodeRules::Bytes::kByRuns;
      stage_ = Stage::kRuns;
    } else {
      rules_.bytes = DecodeRules::Bytes::kLossy;
      stage_ = Stage::kText;
    }
    return absl::OkStatus();
  }

  void Apply(TokenTable* table) const {
    for (TokenId id = 0; id < table->size(); ++id) {
      if (!table->Has(id)) continue;
      std::string piece = table->piece(id);
      for (const TokenStep& step : steps_) {
        if (step.replace.has_value()) piece = step.replace->Apply(piece);
        if (step.strip.has_value()) StripToken(*step.strip, &piece);
      }
      bool is_byte = false;
      if (rules_.bytes == DecodeRules::Bytes::kLossy) {
        if (std::optional<std::string> bytes = ByteLevelToBytes(piece)) piece = *std::move(bytes);
      } else if (rules_.bytes == DecodeRules::Bytes::kByRuns) {
        if (const std::optional<char> byte = FallbackByte(piece)) {
          piece.assign(1, *byte);
          is_byte = true;
        }
      }
      table->SetPiece(id, std::move(piece), is_byte);
    }
    table->set_rules(rules_);
  }

 private:
  enum class Stage { kTokens, kRuns, kText };
  struct TokenStep {
    std::optional<ReplaceRule> replace;
    std::optional<StripRule> strip;
  };

  static absl::Status Misplaced(const std::string& where, const std::string& type) {
    return absl::UnimplementedError(where + ": a decoder of type '" + type +
                                    "' is not supported at this place of the sequence");
  }

  absl::Status AddReplace(const Json& json, const std::string& where) {
    if (!rules_.first_token_drops.empty()) return Misplaced(where, "Replace");
    ASSIGN_OR_RETURN(ReplaceRule rule, ParseReplaceRule(json, where));
    steps_.push_back({std::move(rule), std::nullopt});
    return absl::OkStatus();
  }

  absl::Status AddMetaspace(const Json& json, const std::string& where) {
    if (!steps_.empty()) return Misplaced(where, "Metaspace");
    ASSIGN_OR_RETURN(const MetaspaceRule rule, ParseMetaspaceRule(json, where));
    steps_.push_back({ReplaceRule{rule.replacement, std::nullopt, " "}, std::nullopt});
    if (rule.scheme != PreTokenizer::PrependScheme::kNever) {
      rules_.first_token_drops = rule.replacement;
    }
    return absl::OkStatus();
  }

  absl::Status AddStrip(const Json& json, const std::string& where) {
    StripRule rule;
    ASSIGN_OR_RETURN(rule.content, RequiredString(json, "content", where));
    ASSIGN_OR_RETURN(const int64_t begin, RequiredInt(json, "start", where));
    ASSIGN_OR_RETURN(const int64_t end, RequiredInt(json, "stop", where));
    if (rule.content.empty() || NextUtf8(rule.content, 0).length != rule.content.size() ||
        begin < 0 || end < 0 || begin > kMaxStrip || end > kMaxStrip) {
      return absl::InvalidArgumentError(
          where + " needs one character as 'content' and small counts 'start' and 'stop'");
    }
    rule.begin = static_cast<size_t>(begin);
    rule.end = static_cast<size_t>(end);
    if (stage_ == Stage::kTokens && rules_.first_token_drops.empty()) {
      steps_.push_back({std::nullopt, std::move(rule)});
      return absl::OkStatus();
    }
    if (stage_ != Stage::kText || !rules_.strip.empty()) return Misplaced(where, "Strip");
    rules_.strip = std::move(rule.content);
    rules_.strip_begin = rule.begin;
    rules_.strip_end = rule.end;
    return absl::OkStatus();
  }

  Stage stage_ = Stage::kTokens;
  std::vector<TokenStep> steps_;
  DecodeRules rules_;
};

}  // namespace

absl::Status ApplyDecoder(const Json* json, TokenTable* table) {
  if (json == nullptr) {
    DecodeRules rules;
    rules.separator = " ";
    table->set_rules(std::move(rules));
    return absl::OkStatus();
  }
  DecoderChain chain;
  RETURN_IF_ERROR(chain.Add(*json, "decoder", 0));
  chain.Apply(table);
  return absl::OkStatus();
}

}  // namespace tessera
