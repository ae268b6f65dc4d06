// The client's command line: words and --flags. Every command names the flags it knows; an unknown
// one is an error that names the command's help. Main thread only.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera::cli {

struct FlagSpec {
  const char* name;   // "--max-tokens"
  const char* value;  // what help calls the value, "N"; null: a switch
  const char* help;
};

class Arguments {
 public:
  // Flags may stand anywhere; "--" ends them; --name=value works too. Values of a repeated flag are
  // kept in order.
  static absl::StatusOr<Arguments> Parse(const std::vector<std::string>& arguments,
                                         const std::vector<FlagSpec>& known);

  const std::vector<std::string>& words() const { return words_; }
  bool Has(const std::string& name) const { return values_.count(name) > 0; }
  // The last value given.
  std::optional<std::string> Text(const std::string& name) const;
  std::vector<std::string> All(const std::string& name) const;
  // Errors name the flag.
  absl::Status Int(const std::string& name, std::optional<int64_t>* out) const;
  absl::Status Float(const std::string& name, std::optional<float>* out) const;

 private:
  std::vector<std::string> words_;
  std::map<std::string, std::vector<std::string>> values_;
};

}  // namespace tessera::cli
