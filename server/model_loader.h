// What the server needs of a model's folder besides weights: tokenizer, chat template, defaults.
// Called at start.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "kvstore/identity.h"
#include "scheduler/device/assemble.h"
#include "server/call/served_model.h"

namespace tessera {

// Without a revision, which is known once the weights are loaded. `plan` is the model's part of the
// memory plan; max_prompt_bytes 0: by the context. Errors name the file and what does not fit, e.g.
// a tokenizer with ids beyond the model's vocabulary.
absl::StatusOr<ServedModel> LoadServedModel(const AssembleModel& source, int32_t index,
                                            const MemoryPlan::PerModel& plan,
                                            int64_t max_prompt_bytes);

// Short enough to be read, from the content of the weights: equal on every server that has them.
std::string RevisionOf(const ModelIdentity& identity);

}  // namespace tessera
