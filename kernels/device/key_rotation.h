// The rotation of int8 keys. An int8 page holds H k instead of a key k, and a query q is multiplied
// by H before its dot products: (H q) . (H k) = B (q . k), where H has blocks of B x B numbers +1
// and -1 (RotateRow in kernels/device/quantize.h) and B is KeyRotation(). The factor 1 / B, a power
// of two, is part of the scale of scores, so fp32 dot products change by rounding only. H spreads
// the few large channels of a key over its block, which makes the largest number, and with it the
// quantisation step, smaller (QuaRot, 2404.00456; measured in bench/notes/kv_int8.md). Values have
// no such channels and are not rotated. Pure functions; any thread.
#pragma once

#include <cstdint>

#include "kernels/device/weight_format.h"
#include "kernels/step/page_layout.h"

namespace tessera {

// The number of channels in a block of the rotation; 0: keys are not rotated.
inline int32_t KeyRotation(const GroupLayout& layout) {
  return layout.quantized() ? RotationOf(layout.head_dim) : 0;
}

// The factor of the dot product of a rotated query and a rotated key; 1 without a rotation.
inline float KeyRotationScale(const GroupLayout& layout) {
  const int32_t rotation = KeyRotation(layout);
  return rotation == 0 ? 1.0f : 1.0f / static_cast<float>(rotation);
}

}  // namespace tessera
