// Byte-pair encoding of words. Adjacent symbols are merged in the order of the merge list; of equal
// merges the leftmost is first, as in Hugging Face's BPE. A word of n characters costs O(n log n),
// without recursion. Immutable; any thread.
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
  std::string unk_token;  // replaces an unknown character; empty: unknown characters are dropped
  bool fuse_unk = false;  // consecutive unknown characters become a single unk_token
  // The UTF-8 bytes of an unknown character become <0xNN> tokens if the vocabulary has them.
  bool byte_fallback = false;
  bool ignore_merges = false;  // a word that is in the vocabulary becomes that token directly
};

class BpeModel final {
 public:
  using Merges = std::vector<std::pair<std::string, std::string>>;

  // REQUIRES: *table outlives the model and holds the model's vocabulary.
  static absl::StatusOr<std::unique_ptr<BpeModel>> Create(const TokenTable* table,
                                                          const Merges& merges, BpeOptions options);

  // SentencePiece's BPE: two symbols can merge when the vocabulary contains their concatenation;
  // the merge with the best score is first. `scores` and `mergeable` are indexed by id; only
  // mergeable tokens take part. Returns nullptr when a token contains a character that is not
  // itself a token, because merging would then need symbols without an id.
  static std::unique_ptr<BpeModel> CreateScored(const TokenTable* table,
                                                const std::vector<float>& scores,
                                                const std::vector<bool>& mergeable,
                                                BpeOptions options);

  // Encodes each word by itself and appends the ids. REQUIRES: the words are valid UTF-8 and have
  // fewer than 2^31 code points each.
  void EncodeWords(const WordList& list, std::vector<TokenId>* ids) const;

  // Returns true when no merge joins a symbol to a `marker` on its right. Then a text can be cut
  // before each marker that follows another character, and the words encoded separately, with the
  // same result.
  bool SplitsBefore(std::string_view marker) const;

 private:
  struct Merge {
    uint32_t rank;
    TokenId id;
  };
  // Scratch memory of one call of EncodeWords.
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
  std::array<TokenId, 512> low_character_ids_;  // ids of U+0000 to U+01FF (the byte alphabet)
  absl::flat_hash_map<char32_t, TokenId> character_ids_;
  std::array<TokenId, 256> byte_ids_;
  absl::flat_hash_map<uint64_t, Merge> merges_;
};

}  // namespace tessera
