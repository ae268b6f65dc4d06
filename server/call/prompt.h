// Turns the prompt of a request (text, token ids, parts or chat messages) into token ids and checks
// its limits. Pure functions; any thread except gRPC's threads.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "kernels/base/types.h"

namespace tessera {

namespace v1 {
class ChatPrompt;
class ChatRequest;
class EmbedInput;
class GenerateRequest;
}  // namespace v1

struct ServedModel;

// These two return a prompt with fewer than model.max_model_len tokens, so that at least one output
// token fits in the context.
absl::StatusOr<std::vector<TokenId>> ReadPrompt(const v1::GenerateRequest& request,
                                                const ServedModel& model);
absl::StatusOr<std::vector<TokenId>> ReadPrompt(
    const v1::ChatRequest& request, const ServedModel& model,
    absl::Duration render_time = absl::InfiniteDuration());
// Returns at most model.max_model_len tokens, because an embedding generates nothing. Error
// messages start with `field`, e.g. "inputs[3]".
absl::StatusOr<std::vector<TokenId>> ReadPrompt(const v1::EmbedInput& input,
                                                absl::string_view field, const ServedModel& model);

struct RenderedChat {
  std::string text;
  std::vector<TokenId> ids;
};

// Renders the messages with the model's chat template and encodes the text, without limits on the
// number of tokens. If a rendering takes more processor time than `render_time`, which is shorter
// than model.template_time, the error is DEADLINE_EXCEEDED; if it takes more than
// model.template_time, the template refuses the request.
absl::StatusOr<RenderedChat> RenderChat(const v1::ChatPrompt& chat, const ServedModel& model,
                                        absl::Duration render_time = absl::InfiniteDuration());

// Returns an error if the text has more bytes than model.max_prompt_bytes. Called before the text
// is tokenised.
absl::Status CheckTextSize(absl::string_view field, int64_t bytes, const ServedModel& model);

}  // namespace tessera
