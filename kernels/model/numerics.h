// How a loaded model represents and computes its numbers, as a text: a part of the name under which
// KV is shared. Two engines share KV only if their texts are equal.
//
// The text lists the formats of the matrices and of the KV, and ends with a tag: the hash of the KV
// that the model itself computes for a few fixed tokens in its first layers. Instruction sets,
// compilers and releases that give other bits there have another tag; those that give the same bits
// share. The number of threads, the size of pages and the cut into steps do not change it.
//
// Called at start, on the thread that loads, before the model has its rank thread.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "kernels/device/backend.h"
#include "kernels/model/model.h"
#include "kernels/step/page_layout.h"

namespace tessera {

// The formats, for example "embed bfloat16; head tied; layers 0-23 bfloat16 bfloat16 bfloat16
// bfloat16; kv bfloat16". A layer has the formats of qkv, out, gate_up and down; "int4/32a" is int4
// in groups of 32 with zero points of their own.
std::string FormatsText(const ModelWeights& weights, const PageLayout& layout);

// The hash, 32 hex digits, of the K and V rows of 16 fixed tokens in the first two layers, in the
// order [group, layer, K/V, head, token]. RESOURCE_EXHAUSTED when a buffer for their pages does not
// fit. REQUIRES: `layout` is the model's; no step of the model runs.
absl::StatusOr<std::string> NumericsTag(Backend* backend, Model* model, const PageLayout& layout);

// Both.
absl::StatusOr<std::string> NumericsKey(Backend* backend, Model* model, const PageLayout& layout);

}  // namespace tessera
