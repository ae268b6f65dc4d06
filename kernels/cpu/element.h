// The number formats that the per-ISA sources read from memory. This header holds only PODs, under
// the rules of isa_kernels.h.
#pragma once

#include <cstdint>

namespace tessera::cpu {

// kI8 are int8 codes; the layout of the data defines where their scales lie.
enum class Element : int32_t { kF32, kBF16, kI8 };

}  // namespace tessera::cpu
