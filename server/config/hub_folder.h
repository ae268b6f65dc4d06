// The folders of Hugging Face's cache (`huggingface-cli download`, HF_HOME): models--ORG--NAME has
// refs/BRANCH, a file that holds a commit, and snapshots/COMMIT, the model's folder. Called while
// the configuration is read, on main's thread.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace tessera {

// The folder of the model that `path` names: snapshots/COMMIT of the commit in refs/main if `path`
// is a models--ORG--NAME folder, else `path`.
absl::StatusOr<std::string> ResolveHubFolder(const std::string& path);

// The default name of the model at `path`: NAME for models--ORG--NAME and for its snapshots, else
// the folder's own name.
std::string DefaultModelName(const std::string& path);

}  // namespace tessera
