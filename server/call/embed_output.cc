#include "server/call/embed_output.h"

#include <utility>

#include "server/call/errors.h"
#include "tessera/v1/inference.pb.h"

namespace tessera {

EmbedOutput::EmbedOutput(int32_t num_inputs)
    : num_unfinished_(num_inputs), response_(std::make_unique<v1::EmbedResponse>()) {
  for (int32_t i = 0; i < num_inputs; ++i) response_->add_embeddings();
}

EmbedOutput::~EmbedOutput() = default;

void EmbedOutput::OnEvent(int32_t input, TokenEvent event) {
  if (event.kind == TokenEvent::Kind::kEmbedding) {
    response_->mutable_embeddings(input)->mutable_values()->Assign(event.embedding.begin(),
                                                                   event.embedding.end());
    return;
  }
  if (event.kind != TokenEvent::Kind::kFinished) return;
  --num_unfinished_;
  totals_.AddFinished(event, event.reason);
  totals_.usage.prompt_tokens += event.usage.prompt_tokens;
  totals_.usage.cached_prompt_tokens += event.usage.cached_prompt_tokens;
  v1::Usage* usage = response_->mutable_usage();
  usage->set_prompt_tokens(totals_.usage.prompt_tokens);
  usage->set_cached_prompt_tokens(totals_.usage.cached_prompt_tokens);
  if (!status_.ok()) return;
  if (event.reason == FinishReason::kError) {
    status_ = event.status.ok() ? MakeError(absl::StatusCode::kInternal, "ENGINE_ERROR",
                                            "the engine failed on this input")
                                : std::move(event.status);
  } else if (response_->embeddings(input).values().empty()) {
    status_ = MakeError(absl::StatusCode::kCancelled, "CANCELLED",
                        "the call was cancelled before its embeddings were computed");
  }
}

}  // namespace tessera
