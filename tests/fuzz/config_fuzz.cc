// Passes arbitrary bytes as a configuration file, as a value of --set and as a command line.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "server/config/config.h"
#include "server/config/flags.h"
#include "tessera/v1/config.pb.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  tessera::v1::Config config;
  const absl::Status merged = tessera::MergeYaml("fuzz.yaml", text, &config);
  // An error is one line that starts with the place of the fault.
  if (!merged.ok() && merged.message().substr(0, 9) != "fuzz.yaml") __builtin_trap();

  const size_t equals = text.find('=');
  if (equals != std::string::npos) {
    tessera::v1::Config set;
    tessera::SetConfigValue("--set", text.substr(0, equals), text.substr(equals + 1), &set)
        .IgnoreError();
  }
  std::vector<std::string> words(1);
  for (const char c : text) {
    if (c == ' ') {
      words.emplace_back();
    } else {
      words.back() += c;
    }
  }
  for (const std::string& word : words) {
    if (word.rfind("--config", 0) == 0) return 0;  // --config would read files
  }
  tessera::v1::Config flags;
  tessera::ParseFlags(words, &flags).status().IgnoreError();
  return 0;
}
