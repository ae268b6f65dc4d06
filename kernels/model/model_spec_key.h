// The key of a model spec is a text with all fields that affect the model's forward pass: two specs
// with equal keys compute the same bits from the same weights. The key is a part of the name under
// which KV is shared. Pure function; any thread.
#pragma once

#include <string>

#include "kernels/model/model_spec.h"

namespace tessera {

// Returns the key, which is the same on every machine; floats are written as their bits. The key
// contains all fields of the spec except those that change no number of the forward pass: the
// context length, the begin and end tokens, the sampling defaults, and the type that config.json
// states for the weights.
std::string ModelSpecKey(const ModelSpec& spec);

}  // namespace tessera
