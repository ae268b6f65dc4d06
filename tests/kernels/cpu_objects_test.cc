// Tests the one-definition rule across instruction sets. An object built for one ISA must not
// define an inline function of the standard library or of a shared header, because the linker could
// choose that definition for plain code, which runs on machines without the ISA. So all symbols
// that such an object defines must lie in the ISA's own namespace.
#include <gtest/gtest.h>

#include <cstdio>
#include <memory>
#include <sstream>
#include <string>

namespace tessera::testing {
namespace {

std::string Output(const std::string& command) {
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command.c_str(), "r"), &pclose);
  std::string output;
  char buffer[4096];
  while (pipe != nullptr && std::fgets(buffer, sizeof(buffer), pipe.get()) != nullptr) {
    output += buffer;
  }
  return output;
}

class CpuObjectsTest : public ::testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(CpuObjectsTest, DefineOnlyTheirOwnNames) {
  const auto& [isa, archive] = GetParam();
  const std::string kernels = std::string("tessera::cpu::") + isa + "::";
  const std::string sampler = std::string("tessera::sampling::") + isa + "::";
  std::istringstream symbols(
      Output("nm --demangle --defined-only --extern-only '" + std::string(archive) + "'"));
  int num_own = 0;
  for (std::string line; std::getline(symbols, line);) {
    // A symbol's line is "address type name"; other lines name the members of the archive.
    const size_t type = line.find(' ');
    if (type == std::string::npos || type + 3 > line.size()) continue;
    const std::string name = line.substr(type + 3);
    // Sanitizers add symbols of their own.
    if (name.rfind("__", 0) == 0) continue;
    EXPECT_TRUE(name.find(kernels) != name.npos || name.find(sampler) != name.npos) << line;
    ++num_own;
  }
  EXPECT_GE(num_own, 4) << "does `nm` work?";
}

INSTANTIATE_TEST_SUITE_P(Isa, CpuObjectsTest,
                         ::testing::Values(std::pair("avx2", TESSERA_CPU_AVX2_ARCHIVE),
                                           std::pair("avxvnni", TESSERA_CPU_AVXVNNI_ARCHIVE),
                                           std::pair("avx512", TESSERA_CPU_AVX512_ARCHIVE),
                                           std::pair("amx", TESSERA_CPU_AMX_ARCHIVE),
                                           std::pair("amxtwin", TESSERA_CPU_AMXTWIN_ARCHIVE),
                                           std::pair("avx512vnni", TESSERA_CPU_AVX512VNNI_ARCHIVE),
                                           std::pair("avx512bf16", TESSERA_CPU_AVX512BF16_ARCHIVE)),
                         [](const auto& info) { return std::string(info.param.first); });

}  // namespace
}  // namespace tessera::testing
