// The identity of KV: what the K and V of a token depend on besides the tokens up to it. A model's
// part of it is made when the model is loaded and is constant afterwards.
//
// Plain values; any thread.
#pragma once

#include <string>

namespace tessera {

// What KV bytes depend on in a loaded model.
struct ModelIdentity {
  std::string weights;   // hash of the content of all weights
  std::string spec;      // hash of the resulting ModelSpec: rope, eps, windows, ...
  std::string numerics;  // formats, and a tag of the bits that this build computes on this machine
};

}  // namespace tessera
