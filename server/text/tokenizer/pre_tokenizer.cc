#include "server/text/tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <utility>

#include "server/text/tokenizer/byte_level.h"
#include "server/text/tokenizer/utf8.h"

namespace tessera {
namespace {

// A part of a word that matches a split's pattern or lies between matches. The parts of a word
// cover the word.
struct Part {
  TextRange range;
  bool match;
};

void AppendLiteralMatches(std::string_view word, std::string_view literal,
                          std::vector<TextRange>* matches) {
  for (size_t at = word.find(literal); at != std::string_view::npos;
       at = word.find(literal, at + literal.size())) {
    matches->push_back({at, at + literal.size()});
  }
}

void AppendCharacterMatches(std::string_view word, bool (*matches_character)(char32_t),
                            std::vector<TextRange>* matches) {
  for (size_t at = 0; at < word.size();) {
    const Utf8Unit unit = NextUtf8(word, at);
    if (matches_character(unit.code_point)) matches->push_back({at, at + unit.length});
    at += unit.length;
  }
}

std::vector<Part> PartsOf(size_t word_size, const std::vector<TextRange>& matches, bool invert) {
  std::vector<Part> parts;
  size_t done = 0;
  for (const TextRange& match : matches) {
    if (done != match.begin) parts.push_back({{done, match.begin}, invert});
    parts.push_back({match, !invert});
    done = match.end;
  }
  if (done != word_size) parts.push_back({{done, word_size}, invert});
  return parts;
}

// Joins each match to the part before it, unless that part is also a match.
std::vector<Part> MergeWithPrevious(const std::vector<Part>& parts) {
  std::vector<Part> merged;
  bool previous_match = false;
  for (const Part& part : parts) {
    if (part.match && !previous_match && !merged.empty()) {
      merged.back().range.end = part.range.end;
    } else {
      merged.push_back(part);
    }
    previous_match = part.match;
  }
  return merged;
}

// Joins each match to the part after it, unless that part is also a match.
std::vector<Part> MergeWithNext(const std::vector<Part>& parts) {
  std::vector<Part> merged;
  bool previous_match = false;
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
    if (part->match && !previous_match && !merged.empty()) {
      merged.back().range.begin = part->range.begin;
    } else {
      merged.push_back(*part);
    }
    previous_match = part->match;
  }
  std::reverse(merged.begin(), merged.end());
  return merged;
}

std::vector<Part> MergeContiguous(const std::vector<Part>& parts) {
  std::vector<Part> merged;
  for (const Part& part : parts) {
    if (!merged.empty() && merged.back().match == part.match) {
      merged.back().range.end = part.range.end;
    } else {
      merged.push_back(part);
    }
  }
  return merged;
}

// A fast path for SplitBehavior::kIsolated, which needs no parts: matches and the text between them
// become words.
void AppendIsolated(size_t offset, size_t word_size, const std::vector<TextRange>& matches,
                    std::vector<TextRange>* words) {
  size_t done = 0;
  const auto append = [&](size_t begin, size_t end) {
    if (begin != end) words->push_back({offset + begin, offset + end});
  };
  for (const TextRange& match : matches) {
    append(done, match.begin);
    append(match.begin, match.end);
    done = match.end;
  }
  append(done, word_size);
}

// Splits the word that starts at `offset` and appends the resulting words.
void AppendSplit(size_t offset, size_t word_size, const std::vector<TextRange>& matches,
                 bool invert, SplitBehavior behavior, std::vector<TextRange>* words) {
  if (behavior == SplitBehavior::kIsolated) {
    AppendIsolated(offset, word_size, matches, words);
    return;
  }
  std::vector<Part> parts = PartsOf(word_size, matches, invert);
  switch (behavior) {
    case SplitBehavior::kRemoved:
      parts.erase(std::remove_if(parts.begin(), parts.end(), [](const Part& p) { return p.match; }),
                  parts.end());
      break;
    case SplitBehavior::kIsolated:
      break;
    case SplitBehavior::kMergedWithPrevious:
      parts = MergeWithPrevious(parts);
      break;
    case SplitBehavior::kMergedWithNext:
      parts = MergeWithNext(parts);
      break;
    case SplitBehavior::kContiguous:
      parts = MergeContiguous(parts);
      break;
  }
  for (const Part& part : parts) {
    if (part.range.begin == part.range.end) continue;
    words->push_back({offset + part.range.begin, offset + part.range.end});
  }
}

}  // namespace

void CutBefore(std::string_view marker, WordList* list) {
  std::vector<TextRange> words;
  for (const TextRange& range : list->words) {
    const std::string_view word = list->word(range);
    size_t begin = 0;
    size_t marker_end = 0;  // end of the previous marker
    for (size_t at = word.find(marker); at != std::string_view::npos;
         at = word.find(marker, marker_end)) {
      if (at != marker_end) {
        words.push_back({range.begin + begin, range.begin + at});
        begin = at;
      }
      marker_end = at + marker.size();
    }
    words.push_back({range.begin + begin, range.end});
  }
  list->words.swap(words);
}

void PreTokenizer::AddByteLevel(bool add_prefix_space, std::optional<Regex> regex) {
  Step& step = steps_.emplace_back(Step{Kind::kByteLevel, std::move(regex), {}});
  step.add_prefix_space = add_prefix_space;
}

void PreTokenizer::AddSplit(std::optional<Regex> regex, std::string literal, SplitBehavior behavior,
                            bool invert) {
  Step& step = steps_.emplace_back(Step{Kind::kSplit, std::move(regex), std::move(literal)});
  step.behavior = behavior;
  step.invert = invert;
}

void PreTokenizer::AddMetaspace(std::string replacement, PrependScheme scheme, bool split) {
  Step& step = steps_.emplace_back(Step{Kind::kMetaspace, std::nullopt, std::move(replacement)});
  step.scheme = scheme;
  step.split = split;
}

void PreTokenizer::AddCharacterSplit(bool (*matches)(char32_t), SplitBehavior behavior) {
  Step& step = steps_.emplace_back(Step{Kind::kCharacterSplit, std::nullopt, {}});
  step.matches = matches;
  step.behavior = behavior;
}

void PreTokenizer::Apply(WordList* list) const {
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Kind::kByteLevel:
        ApplyByteLevel(step, list);
        break;
      case Kind::kSplit:
      case Kind::kCharacterSplit:
        ApplySplit(step, list);
        break;
      case Kind::kMetaspace:
        ApplyMetaspace(step, list);
        break;
    }
  }
}

void PreTokenizer::ApplySplit(const Step& step, WordList* list) {
  std::vector<TextRange> words;
  std::vector<TextRange> matches;
  RegexMatcher matcher(step.regex.has_value() ? &*step.regex : nullptr);
  for (const TextRange& range : list->words) {
    const std::string_view word = list->word(range);
    matches.clear();
    if (step.kind == Kind::kCharacterSplit) {
      AppendCharacterMatches(word, step.matches, &matches);
    } else if (step.regex.has_value()) {
      matcher.FindAll(word, &matches);
    } else {
      AppendLiteralMatches(word, step.literal, &matches);
    }
    AppendSplit(range.begin, word.size(), matches, step.invert, step.behavior, &words);
  }
  list->words.swap(words);
}

void PreTokenizer::ApplyByteLevel(const Step& step, WordList* list) {
  WordList out;
  out.at_origin = list->at_origin;
  out.text.reserve(list->text.size() + list->text.size() / 4);
  std::vector<TextRange> matches;
  std::vector<TextRange> cuts;
  RegexMatcher matcher(step.regex.has_value() ? &*step.regex : nullptr);
  std::string prefixed;
  for (const TextRange& range : list->words) {
    std::string_view word = list->word(range);
    if (step.add_prefix_space && !word.empty() && word[0] != ' ') {
      prefixed.assign(1, ' ');
      prefixed += word;
      word = prefixed;
    }
    cuts.clear();
    if (step.regex.has_value()) {
      matches.clear();
      matcher.FindAll(word, &matches);
      AppendSplit(0, word.size(), matches, false, SplitBehavior::kIsolated, &cuts);
    } else {
      cuts.push_back({0, word.size()});
    }
    for (const TextRange& cut : cuts) {
      const size_t begin = out.text.size();
      AppendByteLevel(word.substr(cut.begin, cut.end - cut.begin), &out.text);
      out.words.push_back({begin, out.text.size()});
    }
  }
  *list = std::move(out);
}

void PreTokenizer::ApplyMetaspace(const Step& step, WordList* list) {
  WordList out;
  out.at_origin = list->at_origin;
  std::vector<TextRange> matches;
  for (const TextRange& range : list->words) {
    const std::string_view word = list->word(range);
    const size_t begin = out.text.size();
    const bool first = list->at_origin && range.begin == 0;
    const bool wants_prefix =
        step.scheme == PrependScheme::kAlways || (step.scheme == PrependScheme::kFirst && first);
    const bool has_prefix =
        word.substr(0, 1) == " " || word.substr(0, step.literal.size()) == step.literal;
    if (wants_prefix && !has_prefix && !word.empty()) out.text += step.literal;
    for (const char c : word) {
      if (c == ' ') {
        out.text += step.literal;
      } else {
        out.text += c;
      }
    }
    if (!step.split) {
      out.words.push_back({begin, out.text.size()});
      continue;
    }
    matches.clear();
    const std::string_view written = std::string_view(out.text).substr(begin);
    AppendLiteralMatches(written, step.literal, &matches);
    AppendSplit(begin, written.size(), matches, false, SplitBehavior::kMergedWithNext, &out.words);
  }
  *list = std::move(out);
}

}  // namespace tessera
