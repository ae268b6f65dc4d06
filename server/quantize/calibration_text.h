// The calibration text of `tessera quantize`: sequences of token ids that are cut from a text at
// even distances. Pure functions; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/base/types.h"
#include "server/text/tokenizer/tokenizer.h"

namespace tessera {

struct CalibrationOptions {
  int64_t num_tokens = 16384;     // of all sequences together; a short text gives fewer
  int64_t sequence_tokens = 512;  // length of each sequence; the last may be shorter
};

// Cuts `text` into sequences. Each has the tokens that the tokenizer puts before a text (usually
// BOS). Errors say what to change: the text is not UTF-8, or has too few tokens.
absl::StatusOr<std::vector<std::vector<TokenId>>> CalibrationSequences(
    const Tokenizer& tokenizer, const std::string& text, const CalibrationOptions& options);

}  // namespace tessera
