// Makes a Tokenizer from a tokenizer.json: normalizer, pre-tokenizer, byte-pair encoding,
// post-processor and decoder. Called at load time; the tokenizer is immutable; any thread.
#pragma once

#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "server/text/tokenizer/tokenizer.h"
#include "server/text/tokenizer/tokenizer_config.h"

namespace tessera {

// `json` is the content of a tokenizer.json. The function checks all of it.
absl::StatusOr<std::unique_ptr<Tokenizer>> NewJsonTokenizer(std::string_view json,
                                                            const TokenizerConfig& config);

}  // namespace tessera
