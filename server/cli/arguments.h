// The command line of the programs on the client's side: flags by a table, so that parsing and help
// cannot disagree. Errors say what to type instead.
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
  const char* value;  // what help calls the value; null: a switch
  const char* help;
};

class Arguments final {
 public:
  // Flags may stand anywhere; "--" ends them. A flag that is in none of `specs` is an error.
  static absl::StatusOr<Arguments> Parse(const std::vector<std::string>& words,
                                         const std::vector<FlagSpec>& specs);

  const std::vector<std::string>& positional() const { return positional_; }
  bool Has(const std::string& flag) const { return values_.contains(flag); }
  // The last one given.
  std::optional<std::string> Text(const std::string& flag) const;
  const std::vector<std::string>& All(const std::string& flag) const;

  // Sets *value when the flag was given; an error when its text is no such number.
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

// "1,2,3" or "1 2 3".
absl::StatusOr<std::vector<int32_t>> ParseIds(const std::string& text);

std::string FlagHelp(const std::vector<FlagSpec>& specs);

// The content of a file; "-" is standard input.
absl::StatusOr<std::string> ReadFile(const std::string& path);

}  // namespace tessera::cli
