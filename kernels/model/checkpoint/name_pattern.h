// A regular expression in a file of another program, which is compared with names of modules. Such
// files are written for Python's module re, whose syntax PCRE2 understands. A file is not trusted:
// a bad expression and one that takes too many steps are errors. Only name_pattern.cc includes
// PCRE2. Immutable; any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tessera {

class NamePattern final {
 public:
  // `max_steps` limits the backtracking of one comparison. A module name has about 40 characters,
  // so an expression with a few wildcards takes some hundred steps.
  static absl::StatusOr<NamePattern> Compile(absl::string_view expression, uint32_t max_steps);
  NamePattern(NamePattern&&) noexcept;
  NamePattern& operator=(NamePattern&&) noexcept;
  ~NamePattern();

  // Whether the expression matches some first characters of the name, as Python's re.match decides.
  // INVALID_ARGUMENT: the comparison takes more than `max_steps` steps.
  absl::StatusOr<bool> MatchesStart(absl::string_view name) const;

 private:
  struct Code;

  NamePattern(std::unique_ptr<Code> code, uint32_t max_steps);

  std::unique_ptr<Code> code_;
  uint32_t max_steps_;
};

}  // namespace tessera
