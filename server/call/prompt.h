// From a request's prompt (text, ids, parts, messages) to token ids, bounded and checked. Pure; any
// thread but gRPC's.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/base/types.h"

namespace tessera {

namespace v1 {
class ChatPrompt;
class ChatRequest;
class EmbedInput;
class GenerateRequest;
}  // namespace v1

struct ServedModel;

// All return a prompt that leaves room for at least one token of output.
absl::StatusOr<std::vector<TokenId>> ReadPrompt(const v1::GenerateRequest& request,
                                                const ServedModel& model);
absl::StatusOr<std::vector<TokenId>> ReadPrompt(const v1::ChatRequest& request,
                                                const ServedModel& model);
// Errors blame `field`, e.g. "inputs[3]".
absl::StatusOr<std::vector<TokenId>> ReadPrompt(const v1::EmbedInput& input,
                                                absl::string_view field, const ServedModel& model);

// The messages as the model's template spells them.
absl::StatusOr<std::string> RenderChat(const v1::ChatPrompt& chat, const ServedModel& model);

// Text of more bytes than the model's limit is refused before it is tokenised.
absl::Status CheckTextSize(absl::string_view field, int64_t bytes, const ServedModel& model);

}  // namespace tessera
