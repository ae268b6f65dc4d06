// Byte-pair encoding of one word: the symbols are merged in the order of the merge list, the
// leftmost of equals first, as Hugging Face's BPE does. O(n log n) in the length of the word, no
// recursion. Immutable once built; any thread.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "kernels/base/types.h"
#include "server/text/tokenizer/pre_tokenizer.h"
#include "server/text/tokenizer/token_table.h"

namespace tessera {

struct BpeOptions {
  std::string unk_token;  // stands for unknown characters; empty: they are dropped
  bool fuse_unk = false;  // a run of unknown characters is one unk_token
  bool byte_fallback =
      false;  // unknown characters become <0xNN> tokens where the vocabulary has them
  bool ignore_merges = false;  // a word that is a token as a whole is that token
};

class BpeModel final {
 public:
  using Merges = std::vector<std::pair<std::string, std::string>>;

  // REQUIRES: *table outlives the model and holds the model's vocabulary.
  static absl::StatusOr<std::unique_ptr<BpeModel>> Create(const TokenTable* table,
                                                          const Merges& merges, BpeOptions options);

  // SentencePiece's kind: two symbols merge when the vocabulary has what they spell, the best score
  // first. `scores` are by id; `mergeable` says which tokens take part. nullptr when a token has a
  // character that is not a token itself (such a vocabulary would need merges of what has no id).
  static std::unique_ptr<BpeModel> CreateScored(const TokenTable* table,
                                                const std::vector<float>& scores,
                                                const std::vector<bool>& mergeable,
                                                BpeOptions options);

  // Appends the ids of the words, each encoded by itself. REQUIRES: valid UTF-8, words shorter than
  // 2^31 code points.
  void EncodeWords(const WordList& list, std::vector<TokenId>* ids) const;

  // True when no merge joins anything to a `marker` on its right: then a text may be cut before
  // each marker that follows another character, and the words encoded alone, without changing the
  // result.
  bool SplitsBefore(std::string_view marker) const;

 private:
  struct Merge {
    uint32_t rank;
    TokenId id;
  };
  // Scratch memory of one encoding call.
  struct Scratch {
    struct Symbol {
      TokenId id;
      int32_t prev;
      int32_t next;
    };
    std::vector<Symbol> symbols;
    std::vector<uint64_t> queue;
  };

  BpeModel(const TokenTable* table, BpeOptions options);
  void EncodeWord(std::string_view word, Scratch* scratch, std::vector<TokenId>* ids) const;
  TokenId CharacterId(char32_t code_point) const;
  const Merge* FindMerge(TokenId left, TokenId right) const;
  void AppendSymbols(std::string_view word, Scratch* scratch) const;
  bool AppendByteFallback(std::string_view character, Scratch* scratch) const;
  void MergeShort(Scratch* scratch) const;
  void MergeLong(Scratch* scratch) const;

  const TokenTable* table_;
  BpeOptions options_;
  TokenId unk_id_ = -1;
  std::array<TokenId, 512> low_character_ids_;  // covers the byte-level alphabet
  absl::flat_hash_map<char32_t, TokenId> character_ids_;
  std::array<TokenId, 256> byte_ids_;
  absl::flat_hash_map<uint64_t, Merge> merges_;
};

}  // namespace tessera
