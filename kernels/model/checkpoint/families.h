// Model families: from config.json to a ModelSpec. A family is a short function here and rows in
// the weight-name table (weight_table.h); LoadModelSpec (model_spec.h) is the entry. Pure
// functions.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/model/model_spec.h"

namespace tessera {

// LoadModelSpec on texts. `config_name` is how errors call the file; an empty generation_json means
// that there is none.
absl::StatusOr<ModelSpec> ParseModelSpec(const std::string& config_name,
                                         absl::string_view config_json,
                                         const std::string& generation_name,
                                         absl::string_view generation_json);

}  // namespace tessera
