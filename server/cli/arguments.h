// The command line of the client programs. One table of flags drives both parsing and help, so that
// they cannot disagree. Errors say what to type instead. Each program's main thread owns its
// arguments.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace tessera::cli {

struct FlagSpec {
  const char* name;   // "--max-tokens"
  const char* value;  // the name of the value in the help text; null: the flag takes no value
  const char* help;
};

class Arguments final {
 public:
  // Flags may come before, between or after the positional words; all words after "--" are
  // positional. A flag that is not in `specs` is an error.
  static absl::StatusOr<Arguments> Parse(const std::vector<std::string>& words,
                                         const std::vector<FlagSpec>& specs);

  const std::vector<std::string>& positional() const { return positional_; }
  bool Has(const std::string& flag) const { return values_.contains(flag); }
  // The last value that was given for the flag.
  std::optional<std::string> Text(const std::string& flag) const;
  const std::vector<std::string>& All(const std::string& flag) const;

  // Sets *value if the flag was given. Returns an error if the value is not a number of this type.
  absl::Status Read(const std::string& flag, std::optional<int32_t>* value) const;
  absl::Status Read(const std::string& flag, std::optional<uint32_t>* value) const;
  absl::Status Read(const std::string& flag, std::optional<int64_t>* value) const;
  absl::Status Read(const std::string& flag, std::optional<uint64_t>* value) const;
  absl::Status Read(const std::string& flag, std::optional<float>* value) const;
  absl::Status Read(const std::string& flag, std::optional<double>* value) const;

 private:
  std::vector<std::string> positional_;
  std::map<std::string, std::vector<std::string>> values_;
};

// Removes the command's name from `words` and returns it; "" if there is none. The name is the
// first word that is neither a flag nor the value of one of `flags`.
std::string TakeCommand(const std::vector<FlagSpec>& flags, std::vector<std::string>* words);

// Parses token ids that are separated by a comma, by white space or by both: "1,2,3" or "1, 2 3".
// Nothing between two commas is an error.
absl::StatusOr<std::vector<int32_t>> ParseIds(const std::string& text);

std::string FlagHelp(const std::vector<FlagSpec>& specs);

// Returns the content of the file at `path`; "-" means standard input.
absl::StatusOr<std::string> ReadFile(const std::string& path);

// Returns the text of a file (as ReadFile) without its last line break, because editors and `echo`
// end a text with a line break that belongs to no prompt. An empty text is an error.
absl::StatusOr<std::string> ReadText(const std::string& path);

}  // namespace tessera::cli
