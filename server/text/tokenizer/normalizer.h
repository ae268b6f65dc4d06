// The normalizer of a tokenizer.json: what happens to a text before it is cut into words. A list of
// steps, compiled once; applied from any thread.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/text/tokenizer/regex.h"

namespace tessera {

// Replaces a string, or what a pattern matches, by a string.
struct ReplaceRule {
  std::string text;  // what is replaced, when there is no regex
  std::optional<Regex> regex;
  std::string content;

  std::string Apply(std::string_view input) const;
};

class Normalizer final {
 public:
  enum class Form { kNfc, kNfd, kNfkc, kNfkd };

  void AddForm(Form form);
  void AddPrepend(std::string text);
  void AddReplace(ReplaceRule rule);
  void AddByteLevel();
  bool empty() const { return steps_.empty(); }

  // REQUIRES: *text is valid UTF-8; it stays so.
  void Apply(std::string* text) const;

 private:
  enum class Kind { kForm, kPrepend, kReplace, kByteLevel };
  struct Step {
    Kind kind;
    Form form = Form::kNfc;
    std::string prepend;
    ReplaceRule replace;
  };
  std::vector<Step> steps_;
};

}  // namespace tessera
