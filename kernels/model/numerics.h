// The numerics key of a loaded model is a text that describes how the model represents and computes
// its numbers. The key is a part of the name under which KV is shared: two engines share KV only if
// their keys are equal.
//
// The key lists the formats of the matrices and of the KV, and ends with a tag: the hash of the KV
// that the loaded model computes for a few fixed tokens in its first layers. Two instruction sets,
// compilers or releases have the same tag only if they compute the same bits of this KV. The tag
// does not depend on the number of threads, the size of pages, or how tokens are divided into
// steps.
//
// The loading thread calls these functions at start, before the model has a rank thread.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "kernels/device/backend.h"
#include "kernels/model/model.h"
#include "kernels/step/page_layout.h"

namespace tessera {

// Returns the formats, for example "embed bfloat16; head tied; layers 0-23 bfloat16 bfloat16
// bfloat16 bfloat16; kv bfloat16". A layer has the formats of qkv, out, gate_up and down;
// "int4/32a:bfloat16" is int4 in groups of 32 weights, each group with its own zero point, for bf16
// activations; without the last part, quantised weights have int8 activations.
std::string FormatsText(const ModelWeights& weights, const PageLayout& layout);

// Returns the tag: the hash, as 32 hex digits, of the K and V rows of 16 fixed tokens in the first
// two layers, in the order [group, layer, K/V, head, token]. Returns RESOURCE_EXHAUSTED if there is
// not enough memory for the pages of these tokens. REQUIRES: `layout` is the model's layout; no
// step of the model runs.
absl::StatusOr<std::string> NumericsTag(Backend* backend, Model* model, const PageLayout& layout);

// Returns the numerics key: FormatsText, then NumericsTag.
absl::StatusOr<std::string> NumericsKey(Backend* backend, Model* model, const PageLayout& layout);

}  // namespace tessera
