// Finds the instruction sets that this machine and its operating system support, by CPUID and
// XGETBV at run time. Any thread.
#pragma once

#include <string>
#include <vector>

#include "kernels/cpu/isa_kernels.h"

namespace tessera::cpu {

// Returns the tables that this machine can run, best first.
std::vector<const IsaKernels*> SupportedKernels();

// Returns the table with the name `isa`. If `isa` is empty, the environment variable
// TESSERA_CPU_ISA gives the name; if that is not set either, returns the best table. Returns null
// if the machine does not support the instruction set or the name is unknown.
const IsaKernels* FindKernels(const std::string& isa);

}  // namespace tessera::cpu
