#include "server/tokenizer/spm_tokenizer.h"

#include <algorithm>
#include <charconv>
#include <string>
#include <utility>

#include "kernels/base/status.h"
#include "server/tokenizer/sentencepiece_model.h"

namespace tessera {
namespace {

constexpr std::string_view kMetaspace = "\xE2\x96\x81";  // U+2581, SentencePiece's space
// Longer texts are encoded in chunks where that changes nothing: the library keeps some 100 bytes
// per token.
constexpr size_t kChunkBytes = 1 << 16;

// What the library does to a text before it cuts it, found out by asking.
struct Habits {
  bool adds_prefix = false;        // a space before the text
  bool plain = false;              // every space becomes a metaspace, nothing is dropped
  bool cuts_before_space = false;  // no piece has a metaspace behind another character
};

bool HasInnerMetaspace(std::string_view piece) {
  size_t at = 0;
  while (piece.substr(at, kMetaspace.size()) == kMetaspace) at += kMetaspace.size();
  return piece.find(kMetaspace, at) != std::string_view::npos;
}

Habits FindHabits(const SentencePieceModel& model) {
  const auto joined = [&](std::string_view text) {
    std::string all;
    for (const std::string& piece : model.EncodeAsPieces(text)) all += piece;
    return all;
  };
  const std::string space(kMetaspace);
  Habits habits;
  habits.adds_prefix = joined("a").rfind(space, 0) == 0;
  const std::string prefix = habits.adds_prefix ? space : "";
  habits.plain = joined(" a  b ") == prefix + space + "a" + space + space + "b" + space;
  habits.cuts_before_space = true;
  for (int id = 0; id < model.size(); ++id) {
    if (HasInnerMetaspace(model.piece(id))) habits.cuts_before_space = false;
  }
  return habits;
}

class SpmTokenizer final : public Tokenizer {
 public:
  SpmTokenizer(Parts parts, std::unique_ptr<const SentencePieceModel> model, Habits habits)
      : Tokenizer(std::move(parts)), model_(std::move(model)), habits_(habits) {}

 private:
  void EncodeText(std::string_view text, bool at_origin, std::vector<TokenId>* ids) const override {
    std::vector<int> piece_ids;
    while (!text.empty()) {
      const size_t size = ChunkSize(text);
      model_->Encode(text.substr(0, size), &piece_ids);
      ids->insert(ids->end(), piece_ids.begin(), piece_ids.end());
      text.remove_prefix(size);
      // The next chunk begins with a space, which the library's own prefix replaces.
      if (!text.empty()) text.remove_prefix(1);
    }
  }

  // How much of the text to encode next: up to a space behind another character, with more than the
  // space to follow.
  size_t ChunkSize(std::string_view text) const {
    const bool may_cut = habits_.adds_prefix && habits_.plain && habits_.cuts_before_space;
    if (!may_cut || text.size() <= kChunkBytes) return text.size();
    for (size_t at = kChunkBytes; at + 1 < text.size(); ++at) {
      const bool follows_space = text[at - 1] == ' ' || text.substr(0, at).ends_with(kMetaspace);
      if (text[at] == ' ' && !follows_space) return at;
    }
    return text.size();
  }

  const std::unique_ptr<const SentencePieceModel> model_;
  const Habits habits_;
};

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
  const Habits habits = FindHabits(*model);

  auto table = std::make_unique<TokenTable>();
  std::vector<AddedToken> tokens;
  RETURN_IF_ERROR(FillTable(*model, table.get(), &tokens));
  RETURN_IF_ERROR(
      MergeAddedTokens(config.added_tokens, /*ignore_conflicts=*/true, table.get(), &tokens));
  RETURN_IF_ERROR(
      MergeAddedTokens(config.special_tokens, /*ignore_conflicts=*/true, table.get(), &tokens));
  DecodeRules rules;
  rules.bytes = DecodeRules::Bytes::kByRuns;
  if (habits.adds_prefix) {
    rules.strip = " ";
    rules.strip_begin = 1;
  }
  table->set_rules(std::move(rules));

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
  return std::make_unique<SpmTokenizer>(std::move(parts), std::move(model), habits);
}

}  // namespace tessera
