// The pre-tokenizer of a tokenizer.json: cuts a normalized text into the words that the model
// encodes one by one, and rewrites them (spaces to a visible character, bytes to the byte
// alphabet). A list of steps, compiled once; applied from any thread.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "server/text/tokenizer/regex.h"

namespace tessera {

// A text and the words it is cut into, in order; what is between words is dropped.
struct WordList {
  std::string text;
  std::vector<TextRange> words;
  bool at_origin = false;  // the first word begins where the whole original text began

  std::string_view word(const TextRange& range) const {
    return std::string_view(text).substr(range.begin, range.end - range.begin);
  }
};

// Cuts words before each `marker` that follows something else.
void CutBefore(std::string_view marker, WordList* list);

// What becomes of the matches of a split: see Hugging Face's SplitDelimiterBehavior.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

class PreTokenizer final {
 public:
  enum class PrependScheme { kFirst, kNever, kAlways };

  void AddByteLevel(bool add_prefix_space, std::optional<Regex> regex);
  // `literal` is used when there is no regex.
  void AddSplit(std::optional<Regex> regex, std::string literal, SplitBehavior behavior,
                bool invert);
  void AddMetaspace(std::string replacement, PrependScheme scheme, bool split);
  // Splits at the characters of a class.
  void AddCharacterSplit(bool (*matches)(char32_t), SplitBehavior behavior);
  bool empty() const { return steps_.empty(); }

  // REQUIRES: list->text is valid UTF-8.
  void Apply(WordList* list) const;

 private:
  enum class Kind { kByteLevel, kSplit, kMetaspace, kCharacterSplit };
  struct Step {
    Kind kind;
    std::optional<Regex> regex;
    std::string literal;  // of a split; the replacement of a Metaspace
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
