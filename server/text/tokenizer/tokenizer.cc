#include "server/text/tokenizer/tokenizer.h"

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

}  // namespace

Tokenizer::Tokenizer(Parts parts)
    : table_(std::move(parts.table)),
      raw_splitter_(parts.raw_tokens, ContentsOf(parts.raw_tokens)),
      prefix_(std::move(parts.prefix)),
      suffix_(std::move(parts.suffix)),
      bos_id_(parts.bos_id),
      eos_id_(parts.eos_id) {}

std::vector<TokenId> Tokenizer::Encode(std::string_view text, bool add_special) const {
  std::string repaired;
  if (!IsValidUtf8(text)) {
    AppendLossy(text, /*final=*/true, &repaired);
    text = repaired;
  }
  std::vector<TokenId> ids;
  if (add_special) ids = prefix_;
  for (const AddedTokenSplitter::Part& part : raw_splitter_.Split(text)) {
    if (part.id >= 0) {
      ids.push_back(part.id);
    } else {
      EncodeText(text.substr(part.begin, part.end - part.begin), part.begin == 0, &ids);
    }
  }
  if (add_special) ids.insert(ids.end(), suffix_.begin(), suffix_.end());
  return ids;
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
