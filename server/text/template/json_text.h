// Converts JSON to values, and values to JSON as Python's json.dumps does (the `tojson` filter of
// Hugging Face's chat templates). The JSON is not trusted. Any thread.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/text/template/budget.h"
#include "server/text/template/value.h"

namespace tessera::jinja {

// Errors call the text `what`, e.g. "messages" or "tools". Mappings keep the order of their
// members. Nesting beyond kMaxValueDepth, numbers beyond a double and invalid UTF-8 are errors.
absl::StatusOr<Value> ParseJson(absl::string_view what, absl::string_view text);

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  bool is_indented = false;  // each item is on its own line, with `indent` once per level before it
  std::string indent;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};

absl::StatusOr<std::string> ToJson(Budget& budget, const Value& value, const JsonStyle& style);

}  // namespace tessera::jinja
