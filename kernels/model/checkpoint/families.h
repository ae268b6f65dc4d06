// Turns the config.json of a model family into a ModelSpec. A family consists of a short function
// in families.cc and of rows in the weight-name table (weight_table.h). Callers that have a folder
// use LoadModelSpec (model_spec.h). Pure functions; any thread.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/model/model_spec.h"

namespace tessera {

// Parses the texts of config.json and generation_config.json. Errors call the files `config_name`
// and `generation_name`. An empty `generation_json` means that the model has no such file.
absl::StatusOr<ModelSpec> ParseModelSpec(const std::string& config_name,
                                         absl::string_view config_json,
                                         const std::string& generation_name,
                                         absl::string_view generation_json);

}  // namespace tessera
