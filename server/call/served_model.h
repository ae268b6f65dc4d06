// What the server knows of each model it serves: the name clients use, tokenizer, chat template,
// and the numbers that requests are validated against. Built at start, constant afterwards; any
// thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/base/types.h"
#include "scheduler/request.h"
#include "server/call/limits.h"

namespace tessera {

class ChatTemplate;
class Tokenizer;

struct ServedModel {
  std::string name;
  int32_t index = 0;  // in the engine
  std::string family;
  std::string revision;  // of the weights, from their content
  int64_t vocab_size = 0;
  int64_t max_model_len = 0;  // tokens, prompt and output
  int64_t trained_context = 0;
  int64_t hidden = 0;
  int64_t num_parameters = 0;  // 0: not known
  std::string dtype;
  std::string kv_dtype;
  int64_t max_prompt_bytes = 0;                // of text, before it is tokenised
  int32_t max_embed_inputs = kMaxEmbedInputs;  // more would never fit the engine's queue
  SamplingParams defaults;                     // of generation_config.json; seed and n unused
  std::vector<TokenId> eos_ids;
  std::shared_ptr<const Tokenizer> tokenizer;         // never null
  std::shared_ptr<const ChatTemplate> chat_template;  // null: the model has none
  std::shared_ptr<const ChatTemplate> tool_template;  // for chats with tools; null: chat_template
  std::optional<std::string> bos_token;               // as text, for templates
  std::optional<std::string> eos_token;
};

// Text that fits a context of so many tokens, with room to spare.
int64_t DefaultMaxPromptBytes(int64_t max_model_len);

class ModelRegistry final {
 public:
  // The first model is the default. REQUIRES: not empty, names are unique.
  explicit ModelRegistry(std::vector<ServedModel> models) : models_(std::move(models)) {}

  // Empty: the default model. NOT_FOUND lists the served names.
  absl::StatusOr<const ServedModel*> Find(absl::string_view name) const;
  const std::vector<ServedModel>& models() const { return models_; }

 private:
  const std::vector<ServedModel> models_;
};

}  // namespace tessera
