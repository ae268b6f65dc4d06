// Converts a DType to an Element, for the sources that are not compiled per ISA.
#pragma once

#include "kernels/base/types.h"
#include "kernels/cpu/element.h"

namespace tessera::cpu {

// REQUIRES: dtype is kF32, kBF16 or kI8.
constexpr Element ElementOf(DType dtype) {
  return dtype == DType::kF32    ? Element::kF32
         : dtype == DType::kBF16 ? Element::kBF16
                                 : Element::kI8;
}

}  // namespace tessera::cpu
