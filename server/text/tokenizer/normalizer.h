// The normalizer of a tokenizer.json: a list of steps that rewrite a text before it is cut into
// words. Built once at load time, then immutable; any thread.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/text/tokenizer/regex.h"

namespace tessera {

// Replaces each occurrence of a string, or each match of a pattern, by a string.
struct ReplaceRule {
  std::string text;  // the string to replace if there is no regex
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

  // Rewrites *text. REQUIRES: *text is valid UTF-8; the result is valid UTF-8 too.
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
