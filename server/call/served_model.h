// What the server knows about each served model: the name that clients use, the tokenizer, the chat
// template, and the limits for the validation of requests. Built at start and constant once
// requests are served; any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "kernels/base/types.h"
#include "scheduler/request.h"
#include "server/call/limits.h"

namespace tessera {

class ChatTemplates;
class Tokenizer;

struct ServedModel {
  std::string name;
  int32_t index = 0;  // the engine's index of the model
  std::string family;
  std::string revision;  // of the weights, from their content
  int64_t vocab_size = 0;
  int64_t max_model_len = 0;  // tokens of prompt and output together
  int64_t trained_context = 0;
  int64_t hidden = 0;
  int64_t num_parameters = 0;  // 0: not known
  std::string dtype;
  std::string activations;
  std::string kv_dtype;
  int64_t max_prompt_bytes = 0;  // bytes of prompt text before tokenisation
  // At most the size of the engine's queue: more inputs could never be submitted together.
  int32_t max_embed_inputs = kMaxEmbedInputs;
  // Sampling defaults from generation_config.json; `seed` and `n` are not used.
  SamplingParams defaults;
  std::vector<TokenId> eos_ids;
  std::shared_ptr<const Tokenizer> tokenizer;           // never null
  std::shared_ptr<const ChatTemplates> chat_templates;  // never null
  // The processor time that the rendering of one chat may take.
  absl::Duration template_time = absl::Milliseconds(250);
  // The texts of the special tokens by their names, for the chat templates.
  std::vector<std::pair<std::string, std::string>> special_tokens;
};

// The default of ServedModel::max_prompt_bytes: 64 bytes per token of context, at least 64 KiB.
int64_t DefaultMaxPromptBytes(int64_t max_model_len);

class ModelRegistry final {
 public:
  // The first model is the default. REQUIRES: not empty, names are unique.
  explicit ModelRegistry(std::vector<ServedModel> models) : models_(std::move(models)) {}

  // Finds a model by name; an empty name means the default model. The NOT_FOUND error lists the
  // served names.
  absl::StatusOr<const ServedModel*> Find(absl::string_view name) const;
  const std::vector<ServedModel>& models() const { return models_; }

  // Sets a model's revision. REQUIRES: no other thread uses the registry yet.
  void SetRevision(size_t index, std::string revision) {
    models_[index].revision = std::move(revision);
  }

 private:
  std::vector<ServedModel> models_;
};

}  // namespace tessera
