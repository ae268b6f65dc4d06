// The numbers of a model's forward as one text: two specs with equal keys compute the same bits
// from the same weights. A part of the name under which KV is shared. Pure function; any thread.
#pragma once

#include <string>

#include "kernels/model/model_spec.h"

namespace tessera {

// Deterministic and the same on every machine; floats are written as their bits. Contains all
// fields but those that change no number of the forward: the context's length, end and begin
// tokens, sampling defaults, and the type that config.json claims for the weights.
std::string ModelSpecKey(const ModelSpec& spec);

}  // namespace tessera
