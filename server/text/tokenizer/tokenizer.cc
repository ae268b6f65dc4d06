#include "server/text/tokenizer/tokenizer.h"

#include <set>
#include <utility>

#include "kernels/base/log.h"
#include "kernels/base/paths.h"
#include "kernels/base/status.h"
#include "server/text/tokenizer/decode_stream.h"
#include "server/text/tokenizer/json_access.h"
#include "server/text/tokenizer/json_tokenizer.h"
#include "server/text/tokenizer/spm_tokenizer.h"
#include "server/text/tokenizer/tokenizer_config.h"
#include "server/text/tokenizer/utf8.h"

namespace tessera {
namespace {

std::vector<std::string> ContentsOf(const std::vector<AddedToken>& tokens) {
  std::vector<std::string> contents;
  contents.reserve(tokens.size());
  for (const AddedToken& token : tokens) contents.push_back(token.content);
  return contents;
}

// Whether a special token of the table is not among the tokens that are searched in the raw text.
bool HasOtherSpecial(const TokenTable& table, const std::vector<AddedToken>& raw_tokens) {
  std::vector<bool> is_raw(static_cast<size_t>(table.size()), false);
  for (const AddedToken& token : raw_tokens) is_raw[static_cast<size_t>(token.id)] = true;
  for (TokenId id = 0; id < table.size(); ++id) {
    const bool is_special = table.Has(id) && table.is_special(id) && !table.content(id).empty();
    if (is_special && !is_raw[static_cast<size_t>(id)]) return true;
  }
  return false;
}

std::vector<char32_t> SpecialCharacters(const TokenTable& table) {
  std::set<char32_t> characters;
  for (TokenId id = 0; id < table.size(); ++id) {
    if (!table.Has(id) || !table.is_special(id)) continue;
    const std::string_view text = table.content(id);
    for (size_t at = 0; at < text.size();) {
      const Utf8Unit unit = NextUtf8(text, at);
      at += unit.length;
      if (unit.kind == Utf8Kind::kValid) characters.insert(unit.code_point);
    }
  }
  return {characters.begin(), characters.end()};
}

}  // namespace

Tokenizer::Tokenizer(Parts parts)
    : table_(std::move(parts.table)),
      raw_splitter_(parts.raw_tokens, ContentsOf(parts.raw_tokens)),
      normalizes_special_(HasOtherSpecial(*table_, parts.raw_tokens)),
      special_characters_(SpecialCharacters(*table_)),
      prefix_(std::move(parts.prefix)),
      suffix_(std::move(parts.suffix)),
      bos_id_(parts.bos_id),
      eos_id_(parts.eos_id),
      named_tokens_(std::move(parts.named_tokens)) {}

std::vector<TokenId> Tokenizer::Encode(std::string_view text, bool add_special) const {
  std::string repaired;
  if (!IsValidUtf8(text)) {
    AppendLossy(text, /*final=*/true, &repaired);
    text = repaired;
  }
  std::vector<TokenId> ids;
  if (add_special) ids = prefix_;
  AppendIds(text, /*restore=*/nullptr, &ids);
  if (add_special) ids.insert(ids.end(), suffix_.begin(), suffix_.end());
  return ids;
}

std::vector<TokenId> Tokenizer::EncodeRestored(std::string_view text,
                                               const Restore& restore) const {
  CHECK(!normalizes_special_);
  std::vector<TokenId> ids;
  AppendIds(text, restore, &ids);
  return ids;
}

void Tokenizer::AppendIds(std::string_view text, const Restore& restore,
                          std::vector<TokenId>* ids) const {
  for (const AddedTokenSplitter::Part& part : raw_splitter_.Split(text)) {
    if (part.id >= 0) {
      if (part.begin == 0) EncodeOrigin(part.id, ids);
      ids->push_back(part.id);
      continue;
    }
    const std::string_view between = text.substr(part.begin, part.end - part.begin);
    if (restore == nullptr) {
      EncodeText(between, part.begin == 0, ids);
    } else {
      EncodeText(restore(between), part.begin == 0, ids);
    }
  }
}

std::vector<AddedTokenSplitter::Part> Tokenizer::FindSpecial(std::string_view text) const {
  std::vector<AddedTokenSplitter::Part> found = raw_splitter_.Split(text);
  std::erase_if(found, [this](const auto& part) { return part.id < 0 || !IsSpecial(part.id); });
  return found;
}

std::string Tokenizer::Decode(std::span<const TokenId> ids, bool skip_special) const {
  std::string text;
  DecodeStream stream(table_.get(), skip_special);
  for (const TokenId id : ids) stream.Push(id, &text);
  stream.Flush(&text);
  return text;
}

std::string_view Tokenizer::TokenText(TokenId id) const {
  return table_->Has(id) ? std::string_view(table_->content(id)) : std::string_view();
}

std::string_view Tokenizer::TokenBytes(TokenId id) const {
  return table_->Has(id) ? std::string_view(table_->piece(id)) : std::string_view();
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadJsonTokenizer(const std::string& model_dir) {
  ASSIGN_OR_RETURN(const TokenizerConfig config, ReadTokenizerConfig(model_dir));
  const std::string path = model_dir + "/tokenizer.json";
  ASSIGN_OR_RETURN(const std::string bytes, ReadTokenizerFile(path));
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = NewJsonTokenizer(bytes, config);
  if (tokenizer.ok()) return tokenizer;
  return absl::Status(tokenizer.status().code(),
                      path + ": " + std::string(tokenizer.status().message()));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadSentencePieceTokenizer(
    const std::string& model_dir) {
  ASSIGN_OR_RETURN(const TokenizerConfig config, ReadTokenizerConfig(model_dir));
  const std::string path = model_dir + "/tokenizer.model";
  ASSIGN_OR_RETURN(const std::string bytes, ReadTokenizerFile(path));
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = NewSpmTokenizer(bytes, config);
  if (tokenizer.ok()) return tokenizer;
  return absl::Status(tokenizer.status().code(),
                      path + ": " + std::string(tokenizer.status().message()));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& model_dir) {
  const bool has_json = PathExists(model_dir + "/tokenizer.json");
  const bool has_model = PathExists(model_dir + "/tokenizer.model");
  if (!has_json && !has_model) {
    return absl::NotFoundError(model_dir +
                               " has no tokenizer: put tokenizer.json or tokenizer.model there");
  }
  if (!has_json) return LoadSentencePieceTokenizer(model_dir);
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = LoadJsonTokenizer(model_dir);
  if (tokenizer.ok() || !has_model || !absl::IsUnimplemented(tokenizer.status())) return tokenizer;
  TLOG_WARN("{}; using tokenizer.model instead", std::string(tokenizer.status().message()));
  return LoadSentencePieceTokenizer(model_dir);
}

}  // namespace tessera
