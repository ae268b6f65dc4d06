#include "server/text/tokenizer/json_tokenizer.h"

#include <algorithm>
#include <utility>

#include "kernels/base/status.h"
#include "server/text/tokenizer/bpe.h"
#include "server/text/tokenizer/json_access.h"
#include "server/text/tokenizer/json_components.h"
#include "server/text/tokenizer/normalizer.h"
#include "server/text/tokenizer/pre_tokenizer.h"

namespace tessera {
namespace {

constexpr std::string_view kMetaspace = "\xE2\x96\x81";  // U+2581

class JsonTokenizer final : public Tokenizer {
 public:
  struct Pipeline {
    Normalizer normalizer;
    PreTokenizer pre_tokenizer;
    std::unique_ptr<const BpeModel> model;
    std::vector<AddedToken> normalized_tokens;
    bool cut_at_metaspace = false;  // see BpeModel::SplitsBefore
  };

  JsonTokenizer(Parts parts, Pipeline pipeline)
      : Tokenizer(std::move(parts)),
        pipeline_(std::move(pipeline)),
        normalized_splitter_(
            pipeline_.normalized_tokens,
            NormalizedContents(pipeline_.normalizer, pipeline_.normalized_tokens)) {}

 private:
  // Returns the strings to search in normalized text: the normalized contents of the tokens.
  static std::vector<std::string> NormalizedContents(const Normalizer& normalizer,
                                                     const std::vector<AddedToken>& tokens) {
    std::vector<std::string> contents;
    for (const AddedToken& token : tokens) {
      contents.push_back(token.content);
      normalizer.Apply(&contents.back());
    }
    return contents;
  }

  void EncodeText(std::string_view text, bool at_origin, std::vector<TokenId>* ids) const override {
    std::string normalized(text);
    pipeline_.normalizer.Apply(&normalized);
    for (const AddedTokenSplitter::Part& part : normalized_splitter_.Split(normalized)) {
      if (part.id >= 0) {
        ids->push_back(part.id);
        continue;
      }
      WordList list;
      list.text = normalized.substr(part.begin, part.end - part.begin);
      list.words.push_back({0, list.text.size()});
      list.at_origin = at_origin && part.begin == 0;
      pipeline_.pre_tokenizer.Apply(&list);
      if (pipeline_.cut_at_metaspace) CutBefore(kMetaspace, &list);
      pipeline_.model->EncodeWords(list, ids);
    }
  }

  const Pipeline pipeline_;
  const AddedTokenSplitter normalized_splitter_;
};

absl::Status ReadVocabulary(const Json& model, TokenTable* table) {
  ASSIGN_OR_RETURN(const Json* vocab, RequiredObject(model, "vocab", "model"));
  if (vocab->object().empty()) return absl::InvalidArgumentError("model.vocab is empty");
  for (const JsonMember& token : vocab->object()) {
    if (!token.value.is_int()) {
      return absl::InvalidArgumentError("model.vocab: the id of '" + token.key +
                                        "' must be an integer");
    }
    RETURN_IF_ERROR(table->Add(token.value.integer(), token.key, /*in_model=*/true));
  }
  return absl::OkStatus();
}

// Reads the merge list, which is written ["a b", ...] or [["a", "b"], ...].
absl::StatusOr<BpeModel::Merges> ReadMerges(const Json& model) {
  ASSIGN_OR_RETURN(const Json* list, RequiredArray(model, "merges", "model"));
  BpeModel::Merges merges;
  merges.reserve(list->array().size());
  for (const Json& json : list->array()) {
    const std::string where = "model.merges[" + std::to_string(merges.size()) + "]";
    if (json.is_array() && json.array().size() == 2 && json.array()[0].is_string() &&
        json.array()[1].is_string()) {
      merges.emplace_back(json.array()[0].string(), json.array()[1].string());
      continue;
    }
    if (!json.is_string()) {
      return absl::InvalidArgumentError(where + " must be \"left right\" or [\"left\", \"right\"]");
    }
    const std::string& text = json.string();
    if (merges.empty() && text.rfind("#version", 0) == 0) continue;
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      return absl::InvalidArgumentError(where + " must have exactly one space");
    }
    merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }
  return merges;
}

absl::Status RefuseUnsupportedBpe(const Json& model) {
  ASSIGN_OR_RETURN(const std::optional<std::string> type, OptionalString(model, "type", "model"));
  if (type.value_or("BPE") != "BPE") {
    return absl::UnimplementedError("model of type '" + *type +
                                    "' is not supported (supported: BPE)");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    ASSIGN_OR_RETURN(const std::optional<std::string> affix, OptionalString(model, key, "model"));
    if (affix.has_value() && !affix->empty()) {
      return absl::UnimplementedError(std::string("model.") + key + " is not supported");
    }
  }
  const Json* dropout = FindMember(model, "dropout");
  const bool no_dropout = dropout == nullptr || (dropout->is_int() && dropout->integer() == 0) ||
                          (dropout->is_double() && dropout->number() == 0);
  if (!no_dropout) {
    return absl::UnimplementedError("model.dropout is not supported: set it to null");
  }
  return absl::OkStatus();
}

absl::StatusOr<BpeOptions> ReadBpeOptions(const Json& model) {
  BpeOptions options;
  ASSIGN_OR_RETURN(const std::optional<std::string> unk,
                   OptionalString(model, "unk_token", "model"));
  options.unk_token = unk.value_or("");
  ASSIGN_OR_RETURN(options.fuse_unk, BoolOr(model, "fuse_unk", false, "model"));
  ASSIGN_OR_RETURN(options.byte_fallback, BoolOr(model, "byte_fallback", false, "model"));
  ASSIGN_OR_RETURN(options.ignore_merges, BoolOr(model, "ignore_merges", false, "model"));
  return options;
}

absl::StatusOr<std::vector<AddedToken>> ReadAddedTokens(const Json& document) {
  std::vector<AddedToken> tokens;
  const Json* list = FindMember(document, "added_tokens");
  if (list == nullptr) return tokens;
  if (!list->is_array()) return absl::InvalidArgumentError("added_tokens must be an array");
  for (const Json& json : list->array()) {
    const std::string where = "added_tokens[" + std::to_string(tokens.size()) + "]";
    if (!json.is_object()) return absl::InvalidArgumentError(where + " must be an object");
    RETURN_IF_ERROR(RequiredInt(json, "id", where).status());
    ASSIGN_OR_RETURN(AddedToken token, ParseAddedToken(json, where));
    tokens.push_back(std::move(token));
  }
  return tokens;
}

// Sets the piece of each token that is searched in normalized text to its normalized content, so
// that decoding gives that text.
void SetNormalizedPieces(const std::vector<AddedToken>& tokens, const Normalizer& normalizer,
                         TokenTable* table) {
  for (const AddedToken& token : tokens) {
    if (!token.normalized) continue;
    std::string piece = token.content;
    normalizer.Apply(&piece);
    table->SetPiece(static_cast<TokenId>(token.id), std::move(piece), /*is_byte=*/false);
  }
}

// Applies add_bos_token and add_eos_token of tokenizer_config.json to the frame. For the families
// of RulesFrame they replace the frame; for the others they only fill an empty side.
void OverrideFrame(const TokenizerConfig& config, std::optional<TokenId> bos,
                   std::optional<TokenId> eos, SpecialFrame* frame) {
  const auto apply = [&](const std::optional<bool>& wanted, const std::optional<TokenId>& id,
                         std::vector<TokenId>* side) {
    if (!wanted.has_value()) return;
    if (*wanted && id.has_value()) {
      if (config.RulesFrame() || side->empty()) *side = {*id};
    } else if (!*wanted && config.RulesFrame()) {
      side->clear();
    }
  };
  apply(config.add_bos_token, bos, &frame->prefix);
  apply(config.add_eos_token, eos, &frame->suffix);
}

std::optional<TokenId> FindNamed(const TokenTable& table, const std::optional<std::string>& name) {
  if (!name.has_value()) return std::nullopt;
  return table.Find(*name);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> NewJsonTokenizer(std::string_view json,
                                                            const TokenizerConfig& config) {
  ASSIGN_OR_RETURN(const Json document, ParseJson(json, "the file"));
  ASSIGN_OR_RETURN(const Json* model, RequiredObject(document, "model", "the file"));
  RETURN_IF_ERROR(RefuseUnsupportedBpe(*model));

  auto table = std::make_unique<TokenTable>();
  RETURN_IF_ERROR(ReadVocabulary(*model, table.get()));
  std::vector<AddedToken> tokens;
  ASSIGN_OR_RETURN(const std::vector<AddedToken> file_tokens, ReadAddedTokens(document));
  RETURN_IF_ERROR(MergeAddedTokens(file_tokens, /*ignore_conflicts=*/false, table.get(), &tokens));
  RETURN_IF_ERROR(MergeAddedTokens(AddedTokensBeside(config, tokens), /*ignore_conflicts=*/true,
                                   table.get(), &tokens));
  std::vector<AddedToken> named;
  for (const AddedToken& special : config.special_tokens) {
    const bool described = std::any_of(tokens.begin(), tokens.end(), [&](const AddedToken& token) {
      return token.content == special.content;
    });
    if (!described) named.push_back(special);
  }
  RETURN_IF_ERROR(MergeAddedTokens(named, /*ignore_conflicts=*/true, table.get(), &tokens));
  for (const AddedToken& special : config.special_tokens) {
    if (const std::optional<TokenId> id = table->Find(special.content)) table->MarkSpecial(*id);
  }

  JsonTokenizer::Pipeline pipeline;
  ASSIGN_OR_RETURN(pipeline.normalizer, ParseNormalizer(FindMember(document, "normalizer")));
  ASSIGN_OR_RETURN(pipeline.pre_tokenizer,
                   ParsePreTokenizer(FindMember(document, "pre_tokenizer")));
  SetNormalizedPieces(tokens, pipeline.normalizer, table.get());
  RETURN_IF_ERROR(ApplyDecoder(FindMember(document, "decoder"), table.get()));
  ASSIGN_OR_RETURN(SpecialFrame frame,
                   ParsePostProcessor(FindMember(document, "post_processor"), *table));
  ASSIGN_OR_RETURN(const BpeModel::Merges merges, ReadMerges(*model));
  ASSIGN_OR_RETURN(BpeOptions options, ReadBpeOptions(*model));
  ASSIGN_OR_RETURN(pipeline.model, BpeModel::Create(table.get(), merges, std::move(options)));
  pipeline.cut_at_metaspace = pipeline.model->SplitsBefore(kMetaspace);

  Tokenizer::Parts parts;
  for (AddedToken& token : tokens) {
    (token.normalized ? pipeline.normalized_tokens : parts.raw_tokens).push_back(std::move(token));
  }
  parts.bos_id = FindNamed(*table, config.bos_token);
  parts.eos_id = FindNamed(*table, config.eos_token);
  OverrideFrame(config, parts.bos_id, parts.eos_id, &frame);
  parts.prefix = std::move(frame.prefix);
  parts.suffix = std::move(frame.suffix);
  parts.named_tokens = config.named_tokens;
  parts.table = std::move(table);
  return std::make_unique<JsonTokenizer>(std::move(parts), std::move(pipeline));
}

}  // namespace tessera
