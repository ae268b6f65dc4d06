// SentencePiece's tokenizer.model as a Tokenizer, as Hugging Face converts it: added and special
// tokens are cut out of the text first, each piece between them is encoded by itself (with the
// model's own prefix), bytes stand for what the vocabulary lacks.
#pragma once

#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "server/text/tokenizer/tokenizer.h"
#include "server/text/tokenizer/tokenizer_config.h"

namespace tessera {

// `serialized` is the content of a tokenizer.model.
absl::StatusOr<std::unique_ptr<Tokenizer>> NewSpmTokenizer(std::string_view serialized,
                                                           const TokenizerConfig& config);

}  // namespace tessera
