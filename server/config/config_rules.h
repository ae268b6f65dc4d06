// The tables of the configuration: the values that each field accepts, and the field that each flag
// sets. Constant data; any thread.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace tessera {

struct ConfigRule {
  const char* path;     // dotted, without list indices
  int64_t min = 0;      // smallest number; min == max == 0: the field is not a number
  int64_t max = 0;      // largest number
  const char* allowed;  // accepted words, separated by '|'; null: any text
  const char* later;    // accepted words that only a later release supports; null: none
};
absl::Span<const ConfigRule> ConfigRules();
const ConfigRule* FindConfigRule(absl::string_view path);  // null: the field has no rule

struct ConfigFlag {
  const char* flag;  // "--listen"
  const char* path;  // "server.listen"
  // The name of the value in the help text, "HOST:PORT". Null: the flag alone means "true".
  const char* value;
  const char* help;
};
absl::Span<const ConfigFlag> ConfigFlags();

}  // namespace tessera
