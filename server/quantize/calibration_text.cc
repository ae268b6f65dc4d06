#include "server/quantize/calibration_text.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "server/text/tokenizer/utf8.h"

namespace tessera {
namespace {

constexpr int64_t kMinTextTokens = 256;

}  // namespace

absl::StatusOr<std::vector<std::vector<TokenId>>> CalibrationSequences(
    const Tokenizer& tokenizer, const std::string& text, const CalibrationOptions& options) {
  RETURN_IF_ERROR(ValidateUtf8(text));
  const std::vector<TokenId> ids = tokenizer.Encode(text, /*add_special=*/false);
  const auto num_ids = static_cast<int64_t>(ids.size());
  if (num_ids < kMinTextTokens) {
    return absl::InvalidArgumentError(absl::StrCat("the calibration text has ", num_ids,
                                                   " tokens; give at least ", kMinTextTokens,
                                                   ", better ", options.num_tokens));
  }
  // The tokens before a text. Some tokenizers also put tokens after it, which are left out.
  std::vector<TokenId> prefix = tokenizer.Encode("", /*add_special=*/true);
  const auto eos = std::find(prefix.begin(), prefix.end(), tokenizer.eos_id().value_or(-1));
  if (tokenizer.eos_id() != tokenizer.bos_id()) prefix.erase(eos, prefix.end());

  const int64_t piece =
      std::min(options.sequence_tokens - static_cast<int64_t>(prefix.size()), num_ids);
  const int64_t wanted = std::max<int64_t>(1, options.num_tokens / options.sequence_tokens);
  const int64_t count = std::min(wanted, num_ids / piece);
  std::vector<std::vector<TokenId>> sequences;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t begin = count == 1 ? 0 : i * (num_ids - piece) / (count - 1);
    std::vector<TokenId> sequence = prefix;
    sequence.insert(sequence.end(), ids.begin() + begin, ids.begin() + begin + piece);
    sequences.push_back(std::move(sequence));
  }
  return sequences;
}

}  // namespace tessera
