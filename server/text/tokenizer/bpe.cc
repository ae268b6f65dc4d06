#include "server/text/tokenizer/bpe.h"

#include <algorithm>
#include <cstdio>
#include <functional>

#include "server/text/tokenizer/utf8.h"

namespace tessera {
namespace {

constexpr TokenId kNoToken = -1;
// Up to this number of symbols, scanning for the best pair is faster than a heap.
constexpr size_t kShortWord = 24;
// EncodeWords caches the ids of words with kMinCachedWord to kMaxCachedWord bytes during one call.
constexpr size_t kMinCachedWord = 3;
constexpr size_t kMaxCachedWord = 48;
constexpr size_t kMaxCacheEntries = 1 << 16;
// A shorter text repeats too few words for the cache to pay.
constexpr size_t kMinCachedText = 1024;

uint64_t PairKey(TokenId left, TokenId right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

std::string ByteTokenName(int byte) {
  char name[8];
  std::snprintf(name, sizeof(name), "<0x%02X>", byte);
  return name;
}

absl::Status MissingFromVocabulary(size_t rank, const std::string& token) {
  return absl::InvalidArgumentError("model.merges[" + std::to_string(rank) + "] needs the token '" +
                                    token + "', which model.vocab does not have");
}

}  // namespace

BpeModel::BpeModel(const TokenTable* table, BpeOptions options)
    : table_(table), options_(std::move(options)) {
  low_character_ids_.fill(kNoToken);
  byte_ids_.fill(kNoToken);
  for (TokenId id = 0; id < table->size(); ++id) {
    if (!table->Has(id)) continue;
    const std::string& content = table->content(id);
    if (content.empty() || content.size() > 4 || !table->FindInModel(content).has_value()) continue;
    const Utf8Unit unit = NextUtf8(content, 0);
    if (unit.kind != Utf8Kind::kValid || unit.length != content.size()) continue;
    if (unit.code_point < low_character_ids_.size()) {
      low_character_ids_[unit.code_point] = id;
    } else {
      character_ids_[unit.code_point] = id;
    }
  }
  if (options_.byte_fallback) {
    for (int byte = 0; byte < 256; ++byte) {
      byte_ids_[byte] = table->FindInModel(ByteTokenName(byte)).value_or(kNoToken);
    }
  }
  if (!options_.unk_token.empty()) {
    unk_id_ = table->FindInModel(options_.unk_token).value_or(kNoToken);
  }
}

absl::StatusOr<std::unique_ptr<BpeModel>> BpeModel::Create(const TokenTable* table,
                                                           const Merges& merges,
                                                           BpeOptions options) {
  std::unique_ptr<BpeModel> model(new BpeModel(table, std::move(options)));
  model->merges_.reserve(merges.size());
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    const std::optional<TokenId> left_id = table->FindInModel(left);
    if (!left_id.has_value()) return MissingFromVocabulary(rank, left);
    const std::optional<TokenId> right_id = table->FindInModel(right);
    if (!right_id.has_value()) return MissingFromVocabulary(rank, right);
    const std::optional<TokenId> merged_id = table->FindInModel(left + right);
    if (!merged_id.has_value()) return MissingFromVocabulary(rank, left + right);
    model->merges_[PairKey(*left_id, *right_id)] = {static_cast<uint32_t>(rank), *merged_id};
  }
  return model;
}

std::unique_ptr<BpeModel> BpeModel::CreateScored(const TokenTable* table,
                                                 const std::vector<float>& scores,
                                                 const std::vector<bool>& mergeable,
                                                 BpeOptions options) {
  std::unique_ptr<BpeModel> model(new BpeModel(table, std::move(options)));
  // Tokens with equal scores get the same rank; among equal ranks the leftmost pair is merged
  // first.
  std::vector<float> order(scores);
  std::sort(order.begin(), order.end(), std::greater<float>());
  order.erase(std::unique(order.begin(), order.end()), order.end());
  const auto mergeable_id = [&](std::string_view content) -> TokenId {
    const TokenId id = table->FindInModel(content).value_or(kNoToken);
    return id != kNoToken && mergeable[id] ? id : kNoToken;
  };
  for (TokenId id = 0; id < static_cast<TokenId>(scores.size()); ++id) {
    if (!mergeable[id]) continue;
    const std::string_view content = table->content(id);
    const auto rank =
        std::lower_bound(order.begin(), order.end(), scores[id], std::greater<float>());
    for (size_t at = 0; at < content.size();) {
      const Utf8Unit unit = NextUtf8(content, at);
      if (mergeable_id(content.substr(at, unit.length)) == kNoToken) return nullptr;
      at += unit.length;
      if (at == content.size()) break;
      const TokenId left = mergeable_id(content.substr(0, at));
      const TokenId right = mergeable_id(content.substr(at));
      if (left == kNoToken || right == kNoToken) continue;
      model->merges_[PairKey(left, right)] = {static_cast<uint32_t>(rank - order.begin()), id};
    }
  }
  return model;
}

bool BpeModel::SplitsBefore(std::string_view marker) const {
  if (options_.ignore_merges || !table_->FindInModel(marker).has_value()) return false;
  // Dropping an unknown character would make its two neighbours adjacent, and they could merge
  // across the cut.
  const bool drops_characters =
      unk_id_ == kNoToken && std::count(byte_ids_.begin(), byte_ids_.end(), kNoToken) > 0;
  if (drops_characters) return false;
  const auto joins_to_marker = [&](const auto& entry) {
    const std::string& left = table_->content(static_cast<TokenId>(entry.first >> 32));
    const std::string& right = table_->content(static_cast<TokenId>(entry.first & 0xFFFFFFFFu));
    const bool left_ends_with_marker =
        left.size() >= marker.size() &&
        std::string_view(left).substr(left.size() - marker.size()) == marker;
    return std::string_view(right).substr(0, marker.size()) == marker && !left_ends_with_marker;
  };
  return std::none_of(merges_.begin(), merges_.end(), joins_to_marker);
}

TokenId BpeModel::CharacterId(char32_t code_point) const {
  if (code_point < low_character_ids_.size()) return low_character_ids_[code_point];
  const auto it = character_ids_.find(code_point);
  return it == character_ids_.end() ? kNoToken : it->second;
}

const BpeModel::Merge* BpeModel::FindMerge(TokenId left, TokenId right) const {
  const auto it = merges_.find(PairKey(left, right));
  return it == merges_.end() ? nullptr : &it->second;
}

bool BpeModel::AppendByteFallback(std::string_view character, Scratch* scratch) const {
  for (const char c : character) {
    if (byte_ids_[static_cast<unsigned char>(c)] == kNoToken) return false;
  }
  for (const char c : character) {
    scratch->symbols.push_back({byte_ids_[static_cast<unsigned char>(c)], 0, 0});
  }
  return true;
}

void BpeModel::AppendSymbols(std::string_view word, Scratch* scratch) const {
  bool unk_pending = false;
  const auto flush_unk = [&] {
    if (unk_pending) scratch->symbols.push_back({unk_id_, 0, 0});
    unk_pending = false;
  };
  for (size_t at = 0; at < word.size();) {
    const Utf8Unit unit = NextUtf8(word, at);
    const std::string_view character = word.substr(at, unit.length);
    at += unit.length;
    const TokenId id = CharacterId(unit.code_point);
    if (id != kNoToken) {
      flush_unk();
      scratch->symbols.push_back({id, 0, 0});
      continue;
    }
    // As in Hugging Face's BPE, byte-fallback tokens do not flush a pending unk_token, which is
    // appended after them.
    if (options_.byte_fallback && AppendByteFallback(character, scratch)) continue;
    if (unk_id_ == kNoToken) continue;
    if (!options_.fuse_unk) flush_unk();
    unk_pending = true;
  }
  flush_unk();
}

void BpeModel::EncodeWords(const WordList& list, std::vector<TokenId>* ids) const {
  struct Ids {
    size_t begin;
    size_t count;
  };
  absl::flat_hash_map<std::string_view, Ids> seen;
  const bool use_cache = list.text.size() >= kMinCachedText;
  Scratch scratch;
  for (const TextRange& range : list.words) {
    const std::string_view word = list.word(range);
    const bool cached = use_cache && word.size() >= kMinCachedWord && word.size() <= kMaxCachedWord;
    if (cached) {
      if (const auto it = seen.find(word); it != seen.end()) {
        for (size_t i = 0; i < it->second.count; ++i) ids->push_back((*ids)[it->second.begin + i]);
        continue;
      }
    }
    const size_t begin = ids->size();
    EncodeWord(word, &scratch, ids);
    if (cached && seen.size() < kMaxCacheEntries) seen[word] = {begin, ids->size() - begin};
  }
}

void BpeModel::EncodeWord(std::string_view word, Scratch* scratch,
                          std::vector<TokenId>* ids) const {
  if (word.empty()) return;
  if (options_.ignore_merges) {
    if (const std::optional<TokenId> id = table_->FindInModel(word); id.has_value()) {
      ids->push_back(*id);
      return;
    }
  }
  scratch->symbols.clear();
  AppendSymbols(word, scratch);
  if (scratch->symbols.size() <= kShortWord) {
    MergeShort(scratch);
    for (const Scratch::Symbol& symbol : scratch->symbols) ids->push_back(symbol.id);
    return;
  }
  MergeLong(scratch);
  for (int32_t i = 0; i >= 0; i = scratch->symbols[i].next) {
    ids->push_back(scratch->symbols[i].id);
  }
}

void BpeModel::MergeShort(Scratch* scratch) const {
  std::vector<Scratch::Symbol>& symbols = scratch->symbols;
  std::array<const Merge*, kShortWord> pairs;  // pairs[i]: the merge of symbols i and i + 1
  for (size_t i = 0; i + 1 < symbols.size(); ++i) {
    pairs[i] = FindMerge(symbols[i].id, symbols[i + 1].id);
  }
  for (;;) {
    const Merge* best = nullptr;
    size_t at = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      if (pairs[i] == nullptr || (best != nullptr && pairs[i]->rank >= best->rank)) continue;
      best = pairs[i];
      at = i;
    }
    if (best == nullptr) return;
    symbols[at].id = best->id;
    symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(at) + 1);
    for (size_t i = at + 1; i + 1 < symbols.size(); ++i) pairs[i] = pairs[i + 1];
    if (at > 0) pairs[at - 1] = FindMerge(symbols[at - 1].id, symbols[at].id);
    if (at + 1 < symbols.size()) pairs[at] = FindMerge(symbols[at].id, symbols[at + 1].id);
  }
}

void BpeModel::MergeLong(Scratch* scratch) const {
  std::vector<Scratch::Symbol>& symbols = scratch->symbols;
  const int32_t count = static_cast<int32_t>(symbols.size());
  for (int32_t i = 0; i < count; ++i) {
    symbols[i].prev = i - 1;
    symbols[i].next = i + 1 < count ? i + 1 : -1;
  }
  // An entry is rank << 32 | position of the left symbol; the smallest entry is first. An entry is
  // stale when its pair no longer exists.
  std::vector<uint64_t>& queue = scratch->queue;
  const auto later = std::greater<uint64_t>();
  const auto entry = [&](int32_t left) -> uint64_t {
    const int32_t right = symbols[left].next;
    if (right < 0) return UINT64_MAX;
    const Merge* merge = FindMerge(symbols[left].id, symbols[right].id);
    if (merge == nullptr) return UINT64_MAX;
    return (static_cast<uint64_t>(merge->rank) << 32) | static_cast<uint32_t>(left);
  };
  queue.clear();
  for (int32_t i = 0; i < count; ++i) {
    if (const uint64_t e = entry(i); e != UINT64_MAX) queue.push_back(e);
  }
  std::make_heap(queue.begin(), queue.end(), later);
  const auto push = [&](int32_t left) {
    if (const uint64_t e = entry(left); e != UINT64_MAX) {
      queue.push_back(e);
      std::push_heap(queue.begin(), queue.end(), later);
    }
  };
  while (!queue.empty()) {
    std::pop_heap(queue.begin(), queue.end(), later);
    const uint64_t top = queue.back();
    queue.pop_back();
    const int32_t left = static_cast<int32_t>(top & 0xFFFFFFFFu);
    if (symbols[left].id == kNoToken || entry(left) != top) continue;
    const int32_t right = symbols[left].next;
    symbols[left].id = FindMerge(symbols[left].id, symbols[right].id)->id;
    symbols[left].next = symbols[right].next;
    symbols[right].id = kNoToken;
    if (symbols[left].next >= 0) symbols[symbols[left].next].prev = left;
    if (symbols[left].prev >= 0) push(symbols[left].prev);
    push(left);
  }
}

}  // namespace tessera
