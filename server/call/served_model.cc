#include "server/call/served_model.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/call/errors.h"

namespace tessera {

int64_t DefaultMaxPromptBytes(int64_t max_model_len) {
  constexpr int64_t kBytesPerToken = 64;
  constexpr int64_t kAtLeast = 64 << 10;
  return std::max(kAtLeast, kBytesPerToken * max_model_len);
}

absl::StatusOr<const ServedModel*> ModelRegistry::Find(absl::string_view name) const {
  if (name.empty()) return &models_.front();
  for (const ServedModel& model : models_) {
    if (model.name == name) return &model;
  }
  const auto add_name = [](std::string* out, const ServedModel& model) { out->append(model.name); };
  return MakeError(
      absl::StatusCode::kNotFound, "MODEL_NOT_FOUND",
      absl::StrCat("model '", CutText(name, kMaxNameBytes),
                   "' is not served here; served: ", absl::StrJoin(models_, ", ", add_name)));
}

}  // namespace tessera
