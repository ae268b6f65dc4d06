// The pre-tokenizer of a tokenizer.json: a list of steps that cut a normalized text into words and
// rewrite the words (spaces to a visible character, bytes to the byte alphabet). The model encodes
// each word separately. Built once at load time, then immutable; any thread.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "server/text/tokenizer/regex.h"

namespace tessera {

// A text and its words, in order. Text between two words is dropped.
struct WordList {
  std::string text;
  std::vector<TextRange> words;
  bool at_origin = false;  // the first word is at the start of the original text

  std::string_view word(const TextRange& range) const {
    return std::string_view(text).substr(range.begin, range.end - range.begin);
  }
};

// Cuts each word before every `marker` that follows other text.
void CutBefore(std::string_view marker, WordList* list);

// What a split does with its matches; the names are Hugging Face's (SplitDelimiterBehavior).
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

class PreTokenizer final {
 public:
  enum class PrependScheme { kFirst, kNever, kAlways };

  void AddByteLevel(bool add_prefix_space, std::optional<Regex> regex);
  // Splits at the matches of `regex`, or at `literal` if there is no regex.
  void AddSplit(std::optional<Regex> regex, std::string literal, SplitBehavior behavior,
                bool invert);
  void AddMetaspace(std::string replacement, PrependScheme scheme, bool split);
  // Splits at the characters for which `matches` returns true.
  void AddCharacterSplit(bool (*matches)(char32_t), SplitBehavior behavior);
  bool empty() const { return steps_.empty(); }

  // REQUIRES: list->text is valid UTF-8.
  void Apply(WordList* list) const;

 private:
  enum class Kind { kByteLevel, kSplit, kMetaspace, kCharacterSplit };
  struct Step {
    Kind kind;
    std::optional<Regex> regex;
    std::string literal;  // the literal of a split, or the replacement of a Metaspace
    SplitBehavior behavior = SplitBehavior::kIsolated;
    bool invert = false;
    bool add_prefix_space = false;
    PrependScheme scheme = PrependScheme::kAlways;
    bool split = true;
    bool (*matches)(char32_t) = nullptr;
  };
  static void ApplyByteLevel(const Step& step, WordList* list);
  static void ApplySplit(const Step& step, WordList* list);
  static void ApplyMetaspace(const Step& step, WordList* list);

  std::vector<Step> steps_;
};

}  // namespace tessera
