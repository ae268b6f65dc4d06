// What values the fields of the configuration may have, and which flag sets which field. Data only.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace tessera {

struct ConfigRule {
  const char* path;     // dotted, without list indices
  int64_t min = 0;      // of a number
  int64_t max = 0;      // of a number; 0 with min 0: not a number
  const char* allowed;  // words separated by '|'; null: any text
  const char* later;    // those of the allowed words that a later release brings; null: none
};
absl::Span<const ConfigRule> ConfigRules();
const ConfigRule* FindConfigRule(absl::string_view path);  // null when there is none

struct ConfigFlag {
  const char* flag;   // "--listen"
  const char* path;   // "server.listen"
  const char* value;  // what help calls the value, "HOST:PORT"
  const char* help;
};
absl::Span<const ConfigFlag> ConfigFlags();

}  // namespace tessera
