// A tokenizer.json as a Tokenizer: normalizer, pre-tokenizer, byte-pair encoding, post-processor,
// decoder.
#pragma once

#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "server/text/tokenizer/tokenizer.h"
#include "server/text/tokenizer/tokenizer_config.h"

namespace tessera {

// `json` is the content of a tokenizer.json; nothing in it is trusted.
absl::StatusOr<std::unique_ptr<Tokenizer>> NewJsonTokenizer(std::string_view json,
                                                            const TokenizerConfig& config);

}  // namespace tessera
