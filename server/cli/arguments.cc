#include "server/cli/arguments.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace tessera::cli {

absl::StatusOr<Arguments> Arguments::Parse(const std::vector<std::string>& arguments,
                                           const std::vector<FlagSpec>& known) {
  Arguments parsed;
  bool only_words = false;
  for (size_t i = 0; i < arguments.size(); ++i) {
    std::string name = arguments[i];
    if (only_words || name.size() < 3 || name.compare(0, 2, "--") != 0) {
      if (name == "--") {
        only_words = true;
      } else {
        parsed.words_.push_back(name);
      }
      continue;
    }
    std::optional<std::string> value;
    if (const size_t equals = name.find('='); equals != std::string::npos) {
      value = name.substr(equals + 1);
      name.resize(equals);
    }
    const auto spec = std::find_if(known.begin(), known.end(),
                                   [&name](const FlagSpec& flag) { return name == flag.name; });
    if (spec == known.end()) {
      return absl::InvalidArgumentError(absl::StrCat("unknown flag ", name, "; see --help"));
    }
    if (spec->value == nullptr) {
      if (value) return absl::InvalidArgumentError(absl::StrCat(name, " takes no value"));
      value = "";
    } else if (!value) {
      if (i + 1 == arguments.size()) {
        return absl::InvalidArgumentError(absl::StrCat(name, " needs a value: ", spec->value));
      }
      value = arguments[++i];
    }
    parsed.values_[name].push_back(*value);
  }
  return parsed;
}

std::optional<std::string> Arguments::Text(const std::string& name) const {
  const auto it = values_.find(name);
  if (it == values_.end()) return std::nullopt;
  return it->second.back();
}

std::vector<std::string> Arguments::All(const std::string& name) const {
  const auto it = values_.find(name);
  return it == values_.end() ? std::vector<std::string>() : it->second;
}

absl::Status Arguments::Int(const std::string& name, std::optional<int64_t>* out) const {
  const std::optional<std::string> text = Text(name);
  if (!text) return absl::OkStatus();
  int64_t value = 0;
  if (!absl::SimpleAtoi(*text, &value)) {
    return absl::InvalidArgumentError(absl::StrCat(name, " wants an integer, not '", *text, "'"));
  }
  *out = value;
  return absl::OkStatus();
}

absl::Status Arguments::Float(const std::string& name, std::optional<float>* out) const {
  const std::optional<std::string> text = Text(name);
  if (!text) return absl::OkStatus();
  float value = 0.0f;
  if (!absl::SimpleAtof(*text, &value)) {
    return absl::InvalidArgumentError(absl::StrCat(name, " wants a number, not '", *text, "'"));
  }
  *out = value;
  return absl::OkStatus();
}

}  // namespace tessera::cli
