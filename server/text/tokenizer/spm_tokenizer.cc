#include "server/text/tokenizer/spm_tokenizer.h"

#include <algorithm>
#include <charconv>
#include <string>
#include <utility>

#include "kernels/base/status.h"
#include "server/text/tokenizer/bpe.h"
#include "server/text/tokenizer/pre_tokenizer.h"
#include "server/text/tokenizer/spm_proto.h"

namespace tessera {
namespace {

constexpr std::string_view kMetaspace = "\xE2\x96\x81";  // U+2581, SentencePiece's space

class SpmTokenizer final : public Tokenizer {
 public:
  struct Pipeline {
    std::unique_ptr<const BpeModel> bpe;
    bool legacy = true;       // see TokenizerConfig
    bool add_prefix = false;  // to each text; to the whole text only if `legacy` is false
    bool remove_extra_whitespaces = false;
    // The named special tokens. Without `legacy`, a text that begins with one of them has no
    // prefix.
    std::vector<TokenId> named;
    bool cut_at_metaspace = false;  // see BpeModel::SplitsBefore
  };

  SpmTokenizer(Parts parts, Pipeline pipeline)
      : Tokenizer(std::move(parts)), pipeline_(std::move(pipeline)) {}

 private:
  void EncodeText(std::string_view text, bool at_origin, std::vector<TokenId>* ids) const override {
    WordList list;
    list.text = pipeline_.legacy ? Escaped(text) : EscapedOnce(text, at_origin);
    if (list.text.empty()) return;
    list.words.push_back({0, list.text.size()});
    if (pipeline_.cut_at_metaspace) CutBefore(kMetaspace, &list);
    pipeline_.bpe->EncodeWords(list, ids);
  }

  void EncodeOrigin(TokenId first, std::vector<TokenId>* ids) const override {
    const std::vector<TokenId>& named = pipeline_.named;
    if (pipeline_.legacy || std::find(named.begin(), named.end(), first) != named.end()) return;
    EncodeText("", /*at_origin=*/true, ids);
  }

  // Returns the text with the dummy prefix if the model has one, and with U+2581 in place of
  // spaces. If the model removes extra white space, spaces at both ends are dropped and each run of
  // spaces becomes one.
  std::string Escaped(std::string_view text) const {
    const bool squeeze = pipeline_.remove_extra_whitespaces;
    if (squeeze && text.find_first_not_of(' ') == std::string_view::npos) return "";
    std::string out;
    out.reserve(text.size() + text.size() / 2);
    if (pipeline_.add_prefix) out += kMetaspace;
    bool after_space = squeeze;
    for (const char c : text) {
      if (c != ' ') {
        out += c;
      } else if (!after_space) {
        out += kMetaspace;
      }
      after_space = squeeze && c == ' ';
    }
    while (squeeze && out.ends_with(kMetaspace)) out.resize(out.size() - kMetaspace.size());
    return out;
  }

  // The same without `legacy`, as LlamaTokenizer of transformers does it: only the start of the
  // whole text has a prefix, which is no space of the text. U+2581 in the text is a space. Spaces
  // at the start of the text are kept, even if the model removes extra white space.
  std::string EscapedOnce(std::string_view text, bool at_origin) const {
    const bool squeeze = pipeline_.remove_extra_whitespaces;
    std::string out;
    out.reserve(text.size() + text.size() / 2);
    if (pipeline_.add_prefix && at_origin) out += kMetaspace;
    bool after_space = false;
    for (size_t at = 0; at < text.size();) {
      const bool is_metaspace = text.substr(at, kMetaspace.size()) == kMetaspace;
      const bool is_space = is_metaspace || text[at] == ' ';
      if (!is_space) {
        out += text[at];
      } else if (!after_space) {
        out += kMetaspace;
      }
      after_space = squeeze && is_space;
      at += is_metaspace ? kMetaspace.size() : 1;
    }
    while (squeeze && out.ends_with(kMetaspace)) out.resize(out.size() - kMetaspace.size());
    return out;
  }

  const Pipeline pipeline_;
};

absl::Status NotYet(std::string_view what) {
  return absl::UnimplementedError("SentencePiece models " + std::string(what) +
                                  " are not supported yet; use the model's tokenizer.json");
}

absl::StatusOr<std::unique_ptr<BpeModel>> NewBpe(const SpmProto& proto, const TokenTable& table) {
  if (proto.model_type != SpmProto::kBpe) return NotYet("other than byte-pair encoding");
  if (proto.has_charsmap) return NotYet("with a normalization table");
  if (!proto.escape_whitespaces || proto.whitespace_as_suffix) {
    return NotYet("that keep spaces or put them behind words");
  }
  std::vector<bool> mergeable;
  BpeOptions options;
  options.fuse_unk = true;
  for (size_t id = 0; id < proto.pieces.size(); ++id) {
    const int64_t type = proto.piece_types[id];
    if (type == SpmProto::kUserDefined || type == SpmProto::kUnused) {
      return NotYet("with user-defined or unused pieces");
    }
    if (type == SpmProto::kByte) options.byte_fallback = true;
    if (type == SpmProto::kUnknown) options.unk_token = proto.pieces[id];
    mergeable.push_back(type == SpmProto::kNormal);
  }
  std::unique_ptr<BpeModel> bpe =
      BpeModel::CreateScored(&table, proto.scores, mergeable, std::move(options));
  if (bpe == nullptr) return NotYet("whose pieces have characters that are no pieces");
  return bpe;
}

// Returns the byte of a byte piece such as <0x0A>.
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

// Adds the model's pieces to the table. Control and unknown pieces become special tokens.
absl::Status FillTable(const SpmProto& proto, TokenTable* table, std::vector<AddedToken>* tokens) {
  for (TokenId id = 0; id < proto.size(); ++id) {
    const std::string& piece = proto.pieces[static_cast<size_t>(id)];
    const int64_t type = proto.piece_types[static_cast<size_t>(id)];
    RETURN_IF_ERROR(table->Add(id, piece, /*in_model=*/true));
    if (type == SpmProto::kByte) {
      table->SetPiece(id, ByteOf(piece), /*is_byte=*/true);
    } else {
      table->SetPiece(id, WithSpaces(piece), /*is_byte=*/false);
    }
    if (type != SpmProto::kControl && type != SpmProto::kUnknown) continue;
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

// The special tokens that have a name: bos, eos, unk, pad, ..., and the additional special tokens.
std::vector<TokenId> NamedTokens(const SpmProto& proto, const TokenizerConfig& config,
                                 const TokenTable& table) {
  std::vector<TokenId> named;
  for (TokenId id = 0; id < proto.size(); ++id) {
    if (proto.piece_types[static_cast<size_t>(id)] == SpmProto::kUnknown) named.push_back(id);
  }
  for (const std::string& piece : {proto.bos_piece, proto.eos_piece}) {
    if (const int id = proto.ControlId(piece); id >= 0) named.push_back(id);
  }
  for (const AddedToken& token : config.special_tokens) {
    if (const std::optional<TokenId> id = table.Find(token.content)) named.push_back(*id);
  }
  return named;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> NewSpmTokenizer(std::string_view serialized,
                                                           const TokenizerConfig& config) {
  const std::optional<SpmProto> proto = ParseSpmProto(serialized);
  if (!proto.has_value() || proto->pieces.empty()) {
    return absl::InvalidArgumentError("this is not a SentencePiece model");
  }

  auto table = std::make_unique<TokenTable>();
  std::vector<AddedToken> tokens;
  RETURN_IF_ERROR(FillTable(*proto, table.get(), &tokens));
  RETURN_IF_ERROR(MergeAddedTokens(AddedTokensBeside(config, tokens), /*ignore_conflicts=*/true,
                                   table.get(), &tokens));
  RETURN_IF_ERROR(
      MergeAddedTokens(config.special_tokens, /*ignore_conflicts=*/true, table.get(), &tokens));
  DecodeRules rules;
  rules.bytes = DecodeRules::Bytes::kByRuns;
  const bool add_prefix = config.legacy ? proto->add_dummy_prefix : config.add_prefix_space;
  if (add_prefix) {
    rules.strip = " ";
    rules.strip_begin = 1;
  }
  table->set_rules(std::move(rules));

  SpmTokenizer::Pipeline pipeline;
  pipeline.legacy = config.legacy;
  pipeline.add_prefix = add_prefix;
  pipeline.named = NamedTokens(*proto, config, *table);
  pipeline.remove_extra_whitespaces = proto->remove_extra_whitespaces;
  ASSIGN_OR_RETURN(pipeline.bpe, NewBpe(*proto, *table));
  pipeline.cut_at_metaspace = pipeline.bpe->SplitsBefore(kMetaspace);

  Tokenizer::Parts parts;
  // All added tokens are searched in the raw text, because there is no normalization step outside
  // of SentencePiece's own encoding.
  parts.raw_tokens = std::move(tokens);
  parts.bos_id = NamedOr(*table, config.bos_token, proto->ControlId(proto->bos_piece));
  parts.eos_id = NamedOr(*table, config.eos_token, proto->ControlId(proto->eos_piece));
  if (config.add_bos_token.value_or(true) && parts.bos_id.has_value()) {
    parts.prefix.push_back(*parts.bos_id);
  }
  if (config.add_eos_token.value_or(false) && parts.eos_id.has_value()) {
    parts.suffix.push_back(*parts.eos_id);
  }
  parts.named_tokens = config.named_tokens;
  parts.table = std::move(table);
  return std::make_unique<SpmTokenizer>(std::move(parts), std::move(pipeline));
}

}  // namespace tessera
