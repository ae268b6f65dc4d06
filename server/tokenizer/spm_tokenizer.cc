#include "server/tokenizer/spm_tokenizer.h"

#include <charconv>
#include <string>
#include <utility>

#include "kernels/base/status.h"
#include "server/tokenizer/bpe.h"
#include "server/tokenizer/pre_tokenizer.h"
#include "server/tokenizer/sentencepiece_model.h"
#include "server/tokenizer/spm_proto.h"

namespace tessera {
namespace {

constexpr std::string_view kMetaspace = "\xE2\x96\x81";  // U+2581, SentencePiece's space

class SpmTokenizer final : public Tokenizer {
 public:
  struct Pipeline {
    std::unique_ptr<const SentencePieceModel> model;
    // Where the model is plain byte-pair encoding: our own, which gives the same ids in a tenth of
    // time and memory.
    std::unique_ptr<const BpeModel> bpe;
    bool add_dummy_prefix = false;
    bool cut_at_metaspace = false;  // see BpeModel::SplitsBefore
  };

  SpmTokenizer(Parts parts, Pipeline pipeline)
      : Tokenizer(std::move(parts)), pipeline_(std::move(pipeline)) {}

 private:
  void EncodeText(std::string_view text, bool at_origin, std::vector<TokenId>* ids) const override {
    if (pipeline_.bpe == nullptr) {
      std::vector<int> piece_ids;
      pipeline_.model->Encode(text, &piece_ids);
      ids->insert(ids->end(), piece_ids.begin(), piece_ids.end());
      return;
    }
    WordList list;
    list.text.reserve(text.size() + text.size() / 2);
    if (pipeline_.add_dummy_prefix) list.text += kMetaspace;
    for (const char c : text) {
      if (c == ' ') {
        list.text += kMetaspace;
      } else {
        list.text += c;
      }
    }
    list.words.push_back({0, list.text.size()});
    if (pipeline_.cut_at_metaspace) CutBefore(kMetaspace, &list);
    pipeline_.bpe->EncodeWords(list, ids);
  }

  const Pipeline pipeline_;
};

// Our own encoder for the model, or nullptr where the library has to do it.
std::unique_ptr<BpeModel> PlainBpe(const SpmProto& proto, const SentencePieceModel& model,
                                   const TokenTable& table) {
  const bool plain = proto.model_type == SpmProto::kBpe && !proto.has_charsmap &&
                     !proto.remove_extra_whitespaces && proto.escape_whitespaces &&
                     !proto.whitespace_as_suffix &&
                     proto.scores.size() == static_cast<size_t>(model.size());
  if (!plain) return nullptr;
  std::vector<bool> mergeable;
  BpeOptions options;
  options.fuse_unk = true;
  for (int id = 0; id < model.size(); ++id) {
    const int64_t type = proto.piece_types[id];
    if (type == SpmProto::kUserDefined || type == SpmProto::kUnused) return nullptr;
    if (type == SpmProto::kByte) options.byte_fallback = true;
    if (type == SpmProto::kUnknown) options.unk_token = model.piece(id);
    mergeable.push_back(type == SpmProto::kNormal);
  }
  return BpeModel::CreateScored(&table, proto.scores, mergeable, std::move(options));
}

// <0x0A> to its byte.
std::string ByteOf(const std::string& piece) {
  int value = 0;
  if (piece.size() == 6) std::from_chars(piece.data() + 3, piece.data() + 5, value, 16);
  return std::string(1, static_cast<char>(value));
}

std::string WithSpaces(const std::string& piece) {
  std::string text;
  for (size_t at = 0; at < piece.size();) {
    if (piece.compare(at, kMetaspace.size(), kMetaspace) == 0) {
      text += ' ';
      at += kMetaspace.size();
    } else {
      text += piece[at++];
    }
  }
  return text;
}

// The model's own tokens; its control and unknown ones are special.
absl::Status FillTable(const SentencePieceModel& model, TokenTable* table,
                       std::vector<AddedToken>* tokens) {
  for (int id = 0; id < model.size(); ++id) {
    const std::string& piece = model.piece(id);
    RETURN_IF_ERROR(table->Add(id, piece, /*in_model=*/true));
    if (model.is_byte(id)) {
      table->SetPiece(id, ByteOf(piece), /*is_byte=*/true);
    } else {
      table->SetPiece(id, WithSpaces(piece), /*is_byte=*/false);
    }
    if (!model.is_control(id) && !model.is_unknown(id)) continue;
    table->MarkSpecial(id);
    if (piece.empty()) continue;
    AddedToken token;
    token.id = id;
    token.content = piece;
    token.normalized = false;
    token.special = true;
    tokens->push_back(std::move(token));
  }
  return absl::OkStatus();
}

std::optional<TokenId> NamedOr(const TokenTable& table, const std::optional<std::string>& name,
                               int fallback) {
  if (name.has_value()) {
    if (const std::optional<TokenId> id = table.Find(*name)) return id;
  }
  if (fallback < 0) return std::nullopt;
  return fallback;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> NewSpmTokenizer(std::string_view serialized,
                                                           const TokenizerConfig& config) {
  std::unique_ptr<const SentencePieceModel> model = SentencePieceModel::Load(serialized);
  if (model == nullptr) return absl::InvalidArgumentError("this is not a SentencePiece model");
  const std::optional<SpmProto> proto = ParseSpmProto(serialized);
  if (!proto.has_value()) return absl::InvalidArgumentError("this is not a SentencePiece model");

  auto table = std::make_unique<TokenTable>();
  std::vector<AddedToken> tokens;
  RETURN_IF_ERROR(FillTable(*model, table.get(), &tokens));
  RETURN_IF_ERROR(
      MergeAddedTokens(config.added_tokens, /*ignore_conflicts=*/true, table.get(), &tokens));
  RETURN_IF_ERROR(
      MergeAddedTokens(config.special_tokens, /*ignore_conflicts=*/true, table.get(), &tokens));
  DecodeRules rules;
  rules.bytes = DecodeRules::Bytes::kByRuns;
  if (proto->add_dummy_prefix) {
    rules.strip = " ";
    rules.strip_begin = 1;
  }
  table->set_rules(std::move(rules));

  SpmTokenizer::Pipeline pipeline;
  pipeline.add_dummy_prefix = proto->add_dummy_prefix;
  pipeline.bpe = PlainBpe(*proto, *model, *table);
  if (pipeline.bpe != nullptr) pipeline.cut_at_metaspace = pipeline.bpe->SplitsBefore(kMetaspace);

  Tokenizer::Parts parts;
  // Only SentencePiece itself normalizes, so that all added tokens are sought in the text as it
  // comes.
  parts.raw_tokens = std::move(tokens);
  parts.bos_id = NamedOr(*table, config.bos_token, model->bos_id());
  parts.eos_id = NamedOr(*table, config.eos_token, model->eos_id());
  if (config.add_bos_token.value_or(true) && parts.bos_id.has_value()) {
    parts.prefix.push_back(*parts.bos_id);
  }
  if (config.add_eos_token.value_or(false) && parts.eos_id.has_value()) {
    parts.suffix.push_back(*parts.eos_id);
  }
  parts.table = std::move(table);
  pipeline.model = std::move(model);
  return std::make_unique<SpmTokenizer>(std::move(parts), std::move(pipeline));
}

}  // namespace tessera
