// JSON in and out: foreign JSON becomes values, and values become JSON as Python's json.dumps
// writes it (the `tojson` filter of Hugging Face's chat templates).
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/text/template/budget.h"
#include "server/text/template/value.h"

namespace tessera::jinja {

// `what` names the text in errors: "messages", "tools". Mappings keep their order; integers beyond
// 64 bits, nesting beyond kMaxValueDepth and invalid UTF-8 are errors.
absl::StatusOr<Value> ParseJson(absl::string_view what, absl::string_view text);

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  bool is_indented = false;  // each item on its own line, after `indent` for each level
  std::string indent;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};

absl::StatusOr<std::string> ToJson(Budget& budget, const Value& value, const JsonStyle& style);

}  // namespace tessera::jinja
