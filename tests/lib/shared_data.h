// Where the development data set is, for tests that judge by real models. The product never looks
// there.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

namespace tessera::testing {

// The folder `../shared/data` beside the checkout, or what TESSERA_SHARED_DATA names; empty when
// absent.
inline std::string SharedDataDir() {
  const char* set = std::getenv("TESSERA_SHARED_DATA");
  const std::string dir = set != nullptr ? set : "../shared/data";
  return std::filesystem::is_directory(dir) ? dir : "";
}

}  // namespace tessera::testing

// Skips the running test, with the reason, where the data set is absent. CI counts these skips as
// failures when it is present (see tests/run_all.sh).
#define REQUIRE_SHARED_DATA(path_variable)                                           \
  const std::string path_variable = ::tessera::testing::SharedDataDir();             \
  if (path_variable.empty()) {                                                       \
    GTEST_SKIP() << "SHARED_DATA absent: ../shared/data is not beside the checkout"; \
  }
