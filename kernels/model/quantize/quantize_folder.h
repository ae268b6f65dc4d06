// Quantises a model folder in Hugging Face layout into a new folder that Tessera and transformers
// read: compressed-tensors, format pack-quantized, weights for 16-bit activations. One
// thread calls it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/base/thread_team.h"
#include "kernels/base/types.h"
#include "kernels/model/quantize/quantize_model.h"

namespace tessera {

// Reads the model in `dir` and writes the quantised one to `out`, a folder that does not exist or
// is empty. Tensors that are not quantised are copied as they are, and so are all files beside the
// weights (the tokenizer, the chat template). Returns the errors of LoadModelSpec, QuantizeModel
// and WriteSafetensors; INVALID_ARGUMENT if `out` is not empty or if the model is a multimodal one.
absl::Status QuantizeFolder(const std::string& dir,
                            const std::vector<std::vector<TokenId>>& sequences,
                            const QuantizeOptions& options, ThreadTeam* team,
                            const std::function<void(const QuantizeProgress&)>& progress,
                            const std::string& out);

// Checks `out` as QuantizeFolder does, so that an error comes before the work.
absl::Status CheckNewFolder(const std::string& out);

}  // namespace tessera
