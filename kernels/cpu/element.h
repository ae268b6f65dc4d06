// What numbers lie in memory that kernels read: PODs, under the rules of isa_kernels.h.
#pragma once

#include <cstdint>

namespace tessera::cpu {

// kI8: codes; their scales lie where the layout says.
enum class Element : int32_t { kF32, kBF16, kI8 };

}  // namespace tessera::cpu
