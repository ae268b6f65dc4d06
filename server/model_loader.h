// Loads the parts of a model's folder that the server needs besides the weights: tokenizer, chat
// template, sampling defaults. Called by the node at start, on main's thread.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "kvstore/identity.h"
#include "scheduler/device/assemble.h"
#include "server/call/served_model.h"

namespace tessera {

// The result has no revision: the revision is known once the weights are loaded. `plan` is the
// model's part of the memory plan. `max_prompt_bytes` 0 means a limit derived from the context
// length. Errors name the file and its fault, e.g. a tokenizer whose ids exceed the model's
// vocabulary.
absl::StatusOr<ServedModel> LoadServedModel(const AssembleModel& source, int32_t index,
                                            const MemoryPlan::PerModel& plan,
                                            int64_t max_prompt_bytes);

// Short enough to be read, from the content of the weights: equal on every server that has them.
std::string RevisionOf(const ModelIdentity& identity);

}  // namespace tessera
