// Makes a Tokenizer from SentencePiece's tokenizer.model, with the ids of transformers'
// LlamaTokenizer. Added and special tokens are cut out of the text first. Each part between them is
// encoded by itself, with the model's dummy prefix (with `legacy`; see TokenizerConfig). Characters
// that are not in the vocabulary become byte tokens. Called at load time; the tokenizer is
// immutable; any thread.
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
