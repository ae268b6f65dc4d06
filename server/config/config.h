// The configuration of tesserad. YAML files, `--set a.b=c` and flags are merged into one message
// (proto/tessera/v1/config.proto) by protobuf reflection, so that a new field needs no code here.
// main calls these functions before any thread starts. Every error is one line that says what to
// change.
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

// Merges a YAML text into *config; errors name the text by `file`. The error for an unknown key
// gives the file, the line and the nearest known key. A list replaces the list in *config.
absl::Status MergeYaml(const std::string& file, const std::string& text, v1::Config* config);
absl::Status MergeYamlFile(const std::string& file, v1::Config* config);

// Sets one value by its dotted path, e.g. "engine.max_num_seqs" or "models.0.name". An index equal
// to the size of the list appends an element. Errors start with `origin`, e.g. "--set".
absl::Status SetConfigValue(const std::string& origin, const std::string& path,
                            const std::string& value, v1::Config* config);

// Parses a number of bytes such as "1048576", "1024KiB" or "1.5GiB".
absl::StatusOr<uint64_t> ParseSize(absl::string_view text);
std::string FormatSize(uint64_t bytes);

// An address that is written HOST:PORT, or [HOST]:PORT for an IPv6 host.
struct HostPort {
  std::string host;
  int port = 0;
};
absl::StatusOr<HostPort> ParseHostPort(absl::string_view text);

// Sets the default names of models, replaces folders of Hugging Face's cache by the model's own
// folder (hub_folder.h), and checks the configuration as a whole: there is at least one
// model, model names are unique, and no value belongs to a later release.
absl::Status FinishConfig(v1::Config* config);

}  // namespace tessera
