#include "server/cli/arguments.h"

#include <cstddef>
#include <fstream>
#include <iostream>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernels/base/nearest_word.h"
#include "kernels/base/status.h"

namespace tessera::cli {
namespace {

const FlagSpec* Find(const std::vector<FlagSpec>& specs, const std::string& name) {
  for (const FlagSpec& spec : specs) {
    if (name == spec.name) return &spec;
  }
  return nullptr;
}

absl::Status UnknownFlag(const std::string& name, const std::vector<FlagSpec>& specs) {
  std::vector<std::string> known;
  known.reserve(specs.size());
  for (const FlagSpec& spec : specs) known.emplace_back(spec.name);
  const std::string nearest = NearestWord(name, known);
  return absl::InvalidArgumentError(absl::StrCat(
      "unknown flag '", name, "'; ",
      nearest.empty() ? "see --help" : absl::StrCat("the nearest known flag is ", nearest)));
}

template <class T>
bool ParseNumber(const std::string& text, T* value) {
  if constexpr (std::is_same_v<T, float>) {
    return absl::SimpleAtof(text, value);
  } else if constexpr (std::is_same_v<T, double>) {
    return absl::SimpleAtod(text, value);
  } else {
    return absl::SimpleAtoi(text, value);
  }
}

template <class T>
absl::Status ReadNumber(const Arguments& arguments, const std::string& flag,
                        std::optional<T>* value) {
  const std::optional<std::string> text = arguments.Text(flag);
  if (!text) return absl::OkStatus();
  T number;
  if (!ParseNumber(*text, &number)) {
    return absl::InvalidArgumentError(absl::StrCat(flag, " is '", *text, "'; give a number"));
  }
  *value = number;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Arguments> Arguments::Parse(const std::vector<std::string>& words,
                                           const std::vector<FlagSpec>& specs) {
  Arguments arguments;
  bool flags_ended = false;
  for (size_t i = 0; i < words.size(); ++i) {
    std::string name = words[i];
    if (!flags_ended && name == "--") {
      flags_ended = true;
      continue;
    }
    if (flags_ended || name.size() < 2 || name[0] != '-') {
      arguments.positional_.push_back(name);
      continue;
    }
    std::optional<std::string> value;
    if (const size_t equals = name.find('='); equals != std::string::npos) {
      value = name.substr(equals + 1);
      name.resize(equals);
    }
    const FlagSpec* spec = Find(specs, name);
    if (spec == nullptr) {
      return UnknownFlag(name, specs);
    }
    if (spec->value == nullptr) {
      if (value) return absl::InvalidArgumentError(absl::StrCat(name, " takes no value"));
      value = "";
    } else if (!value) {
      if (i + 1 == words.size()) {
        return absl::InvalidArgumentError(absl::StrCat(name, " needs a value: ", spec->value));
      }
      value = words[++i];
    }
    arguments.values_[name].push_back(*value);
  }
  return arguments;
}

std::optional<std::string> Arguments::Text(const std::string& flag) const {
  const auto it = values_.find(flag);
  if (it == values_.end()) return std::nullopt;
  return it->second.back();
}

const std::vector<std::string>& Arguments::All(const std::string& flag) const {
  static const std::vector<std::string> kNone;
  const auto it = values_.find(flag);
  return it == values_.end() ? kNone : it->second;
}

absl::Status Arguments::Read(const std::string& flag, std::optional<int32_t>* value) const {
  return ReadNumber(*this, flag, value);
}
absl::Status Arguments::Read(const std::string& flag, std::optional<uint32_t>* value) const {
  return ReadNumber(*this, flag, value);
}
absl::Status Arguments::Read(const std::string& flag, std::optional<int64_t>* value) const {
  return ReadNumber(*this, flag, value);
}
absl::Status Arguments::Read(const std::string& flag, std::optional<uint64_t>* value) const {
  return ReadNumber(*this, flag, value);
}
absl::Status Arguments::Read(const std::string& flag, std::optional<float>* value) const {
  return ReadNumber(*this, flag, value);
}
absl::Status Arguments::Read(const std::string& flag, std::optional<double>* value) const {
  return ReadNumber(*this, flag, value);
}

std::string TakeCommand(const std::vector<FlagSpec>& flags, std::vector<std::string>* words) {
  for (size_t i = 0; i < words->size(); ++i) {
    const std::string& word = (*words)[i];
    if (word.empty() || word[0] != '-') {
      std::string name = word;
      words->erase(words->begin() + static_cast<ptrdiff_t>(i));
      return name;
    }
    const FlagSpec* const flag = Find(flags, word);
    if (flag != nullptr && flag->value != nullptr) ++i;
  }
  return "";
}

absl::StatusOr<std::vector<int32_t>> ParseIds(const std::string& text) {
  std::vector<int32_t> ids;
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    const size_t num_before = ids.size();
    for (const absl::string_view word :
         absl::StrSplit(part, absl::ByAnyChar(" \t\r\n"), absl::SkipEmpty())) {
      int32_t id = 0;
      if (!absl::SimpleAtoi(word, &id)) {
        return absl::InvalidArgumentError(
            absl::StrCat("'", word, "' is no token id; give whole numbers, e.g. 1,15043"));
      }
      ids.push_back(id);
    }
    if (ids.size() == num_before) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", text, "' lacks a token id; give whole numbers, e.g. 1,15043"));
    }
  }
  return ids;
}

std::string FlagHelp(const std::vector<FlagSpec>& specs) {
  std::string text;
  for (const FlagSpec& spec : specs) {
    const std::string flag =
        spec.value == nullptr ? spec.name : absl::StrCat(spec.name, " ", spec.value);
    absl::StrAppendFormat(&text, "  %-28s %s\n", flag, spec.help);
  }
  return text;
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::stringstream text;
  if (path == "-") {
    text << std::cin.rdbuf();
    return text.str();
  }
  std::ifstream stream(path, std::ios::binary);
  if (stream) text << stream.rdbuf();
  if (!stream) return absl::NotFoundError(absl::StrCat("cannot read '", path, "'; check the path"));
  return text.str();
}

absl::StatusOr<std::string> ReadText(const std::string& path) {
  ASSIGN_OR_RETURN(std::string text, ReadFile(path));
  absl::string_view trimmed = text;
  if (absl::ConsumeSuffix(&trimmed, "\n")) absl::ConsumeSuffix(&trimmed, "\r");
  if (trimmed.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "there is no text ", path == "-" ? "on standard input" : absl::StrCat("in '", path, "'"),
        "; give some"));
  }
  text.resize(trimmed.size());
  return text;
}

}  // namespace tessera::cli
