#include "kernels/cpu/isa.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>

#include "kernels/device/backend.h"

namespace tessera {
namespace cpu {
namespace {

struct Registers {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers Cpuid(uint32_t leaf, uint32_t subleaf) {
  Registers r;
  if (__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return {};
  return r;
}

bool Bit(uint32_t word, int bit) { return ((word >> bit) & 1u) != 0; }

// Returns XCR0, the bit set of the register states that the operating system saves.
uint32_t EnabledState() {
  uint32_t eax = 0;
  uint32_t edx = 0;
  asm volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
  return eax;
}

// Asks the operating system for permission to use the AMX tile registers. The permission applies to
// all threads of the process.
bool MayUseTiles() {
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

std::vector<const IsaKernels*> SupportedKernels() {
  const Registers leaf1 = Cpuid(1, 0);
  const Registers leaf7 = Cpuid(7, 0);
  const Registers leaf7_1 = Cpuid(7, 1);
  const bool os_saves = Bit(leaf1.ecx, 27);
  const uint32_t state = os_saves ? EnabledState() : 0;
  const bool ymm = (state & 0x6u) == 0x6u;
  const bool zmm = (state & 0xe6u) == 0xe6u;
  const bool has_avx2 = ymm && Bit(leaf1.ecx, 28) && Bit(leaf1.ecx, 12) /* FMA */ &&
                        Bit(leaf1.ecx, 29) /* F16C */ && Bit(leaf7.ebx, 5);
  const bool has_avx512 = has_avx2 && zmm && Bit(leaf7.ebx, 16) /* F */ &&
                          Bit(leaf7.ebx, 17) /* DQ */ && Bit(leaf7.ebx, 30) /* BW */ &&
                          Bit(leaf7.ebx, 31) /* VL */;
  const bool has_avxvnni = has_avx2 && Bit(leaf7_1.eax, 4);
  const bool has_vnni = has_avx512 && Bit(leaf7.ecx, 11);
  const bool has_bf16 = has_vnni && Bit(leaf7_1.eax, 5);
  const bool tiles = (state & 0x60000u) == 0x60000u;
  const bool has_amx = has_bf16 && tiles && Bit(leaf7.edx, 22) /* BF16 */ &&
                       Bit(leaf7.edx, 24) /* TILE */ && Bit(leaf7.edx, 25) /* INT8 */ &&
                       MayUseTiles();

  std::vector<const IsaKernels*> supported;
  if (has_amx) supported.push_back(&amx::Kernels());
  if (has_bf16) supported.push_back(&avx512bf16::Kernels());
  if (has_vnni) supported.push_back(&avx512vnni::Kernels());
  if (has_avx512) supported.push_back(&avx512::Kernels());
  if (has_avxvnni) supported.push_back(&avxvnni::Kernels());
  if (has_avx2) supported.push_back(&avx2::Kernels());
  return supported;
}

const IsaKernels* FindKernels(const std::string& isa) {
  std::string wanted = isa;
  const char* const forced = std::getenv("TESSERA_CPU_ISA");
  if (wanted.empty() && forced != nullptr) wanted = forced;
  const std::vector<const IsaKernels*> supported = SupportedKernels();
  for (const IsaKernels* kernels : supported) {
    if (wanted.empty() || wanted == kernels->name) return kernels;
  }
  // The twin needs AVX2 only, which every supported instruction set includes.
  const IsaKernels& twin = amxtwin::Kernels();
  return !supported.empty() && wanted == twin.name ? &twin : nullptr;
}

}  // namespace cpu

std::vector<std::string> CpuIsas() {
  std::vector<std::string> names;
  for (const cpu::IsaKernels* kernels : cpu::SupportedKernels()) names.emplace_back(kernels->name);
  return names;
}

}  // namespace tessera
