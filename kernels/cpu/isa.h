// Which instruction sets this machine and its operating system support; found by CPUID and XGETBV
// at run time.
#pragma once

#include <string>
#include <vector>

#include "kernels/cpu/isa_kernels.h"

namespace tessera::cpu {

// The tables that this machine can run, best first.
std::vector<const IsaKernels*> SupportedKernels();

// The table that `isa` names; "" asks the environment variable TESSERA_CPU_ISA, then takes the
// best. Null when the machine lacks it or nobody knows the name.
const IsaKernels* FindKernels(const std::string& isa);

}  // namespace tessera::cpu
