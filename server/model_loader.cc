#include "server/model_loader.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "server/call/params.h"
#include "server/text/template/chat_templates.h"
#include "server/text/tokenizer/tokenizer.h"

namespace tessera {
namespace {

constexpr size_t kRevisionDigits = 16;

// Returns the sampling defaults of the model in `dir`, whose ranges are those of a request.
absl::StatusOr<SamplingParams> Defaults(const std::string& dir,
                                        const GenerationDefaults& generation) {
  SamplingParams params;
  if (!generation.present) return params;
  if (generation.do_sample && generation.temperature) params.temperature = *generation.temperature;
  if (!generation.do_sample) params.temperature = 0.0f;
  if (generation.top_k) params.top_k = *generation.top_k;
  if (generation.top_p) params.top_p = *generation.top_p;
  if (generation.min_p) params.min_p = *generation.min_p;
  if (generation.repetition_penalty) params.repetition_penalty = *generation.repetition_penalty;
  if (const absl::Status status = ValidateSampling("", &params); !status.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(dir, "/generation_config.json: ", status.message()));
  }
  return params;
}

// The named tokens of the tokenizer's files. A tokenizer.model may have BOS and EOS tokens that no
// file names.
SpecialTokens SpecialTokensOf(const Tokenizer& tokenizer) {
  SpecialTokens tokens = tokenizer.named_tokens();
  const auto add = [&](const char* name, std::optional<TokenId> id) {
    const bool is_known = std::any_of(tokens.begin(), tokens.end(),
                                      [&](const auto& token) { return token.first == name; });
    if (id && !is_known) tokens.emplace_back(name, tokenizer.TokenText(*id));
  };
  add("bos_token", tokenizer.bos_id());
  add("eos_token", tokenizer.eos_id());
  return tokens;
}

int64_t CountParameters(const ModelSpec& spec) {
  const int64_t q = static_cast<int64_t>(spec.heads) * spec.head_dim;
  const int64_t kv = static_cast<int64_t>(spec.kv_heads) * spec.head_dim;
  const int64_t layer = spec.hidden * (2 * q + 2 * kv + 3 * spec.intermediate + 2);
  const int64_t embeddings = spec.vocab_size * spec.hidden * (spec.tied_embeddings ? 1 : 2);
  return spec.num_layers * layer + embeddings + spec.hidden;
}

}  // namespace

absl::StatusOr<ServedModel> LoadServedModel(const AssembleModel& source, int32_t index,
                                            const MemoryPlan::PerModel& plan,
                                            int64_t max_prompt_bytes) {
  ServedModel model;
  model.name = source.name;
  model.index = index;
  model.family = plan.spec.family;
  model.vocab_size = plan.spec.vocab_size;
  model.max_model_len = plan.max_model_len;
  model.trained_context = plan.spec.max_positions;
  model.hidden = plan.spec.hidden;
  model.num_parameters = CountParameters(plan.spec);
  model.dtype = DTypeName(plan.weight_dtype);
  model.activations = DTypeName(plan.activations);
  model.kv_dtype = DTypeName(plan.kv_dtype);
  model.max_prompt_bytes =
      max_prompt_bytes > 0 ? max_prompt_bytes : DefaultMaxPromptBytes(plan.max_model_len);
  ASSIGN_OR_RETURN(model.defaults, Defaults(source.dir, plan.spec.generation));

  ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, LoadTokenizer(source.dir));
  if (tokenizer->vocab_size() > plan.spec.vocab_size) {
    return absl::InvalidArgumentError(
        absl::StrCat(source.dir, ": the tokenizer has ids up to ", tokenizer->vocab_size() - 1,
                     ", but config.json's vocab_size is ", plan.spec.vocab_size,
                     ": use the tokenizer files that belong to this model"));
  }
  model.eos_ids = plan.spec.eos_ids;
  if (model.eos_ids.empty() && tokenizer->eos_id()) model.eos_ids.push_back(*tokenizer->eos_id());
  model.special_tokens = SpecialTokensOf(*tokenizer);
  model.tokenizer = std::move(tokenizer);
  // A model whose template cannot be used still serves Generate, Embed and Tokenize.
  model.chat_templates = std::make_shared<ChatTemplates>(ChatTemplates::Load(source.dir));
  for (const std::string& fault : model.chat_templates->Faults()) {
    TLOG_WARN("model '{}' {}: chats that need this template are refused", model.name, fault);
  }
  return model;
}

std::string RevisionOf(const ModelIdentity& identity) {
  return identity.weights.substr(0, kRevisionDigits);
}

}  // namespace tessera
