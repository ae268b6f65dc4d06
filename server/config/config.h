// The configuration of tesserad: YAML files, `--set a.b=c` and flags, all into one message
// (proto/tessera/v1/config.proto) by protobuf reflection, so that a new field needs no code here.
// Used by main before any thread starts. Every error is one line that says what to change.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace google::protobuf {
class Message;
}

namespace tessera {

namespace v1 {
class Config;
}

// Merges a YAML text into *config; `file` names it in errors. An unknown key is an error that names
// the file, the line and the nearest known key. A list replaces what was there.
absl::Status MergeYaml(const std::string& file, const std::string& text, v1::Config* config);
absl::Status MergeYamlFile(const std::string& file, v1::Config* config);

// Sets one value by its dotted path, e.g. "engine.max_num_seqs" or "models.0.name" (the index after
// the last appends). `origin` names the place in errors, e.g. "--set".
absl::Status SetConfigValue(const std::string& origin, const std::string& path,
                            const std::string& value, v1::Config* config);

// Bytes of "1048576", "1024KiB", "1.5GiB".
absl::StatusOr<uint64_t> ParseSize(absl::string_view text);
std::string FormatSize(uint64_t bytes);

// HOST:PORT or [V6]:PORT.
struct HostPort {
  std::string host;
  int port = 0;
};
absl::StatusOr<HostPort> ParseHostPort(absl::string_view text);

// What holds across fields: at least one model, unique names, later releases' values. Fills the
// models' default names in.
absl::Status FinishConfig(v1::Config* config);

// The candidate nearest to `word` by edit distance; empty when there is none.
std::string NearestWord(absl::string_view word, const std::vector<std::string>& candidates);

}  // namespace tessera
