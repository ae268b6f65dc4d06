// Explains a path that is not a model's folder in Hugging Face layout: a GGUF file, a LoRA adapter,
// a folder that has its weights in another format. The errors name what is there and say what to
// do. Pure functions of the files; any thread.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace tessera {

// The error for `dir`, which has no config.json. `cause` is why config.json could not be read.
absl::Status NoModelConfig(const std::string& dir, const absl::Status& cause);

// The error for `dir`, which has neither model.safetensors nor an index of shards.
absl::Status NoSafetensors(const std::string& dir);

}  // namespace tessera
