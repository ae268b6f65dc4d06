// Finds the development data set, for tests that need real models. The product does not use it. Any
// thread.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

namespace tessera::testing {

// The folder that TESSERA_SHARED_DATA names, else `../shared/data` relative to the checkout; empty
// when the folder does not exist.
inline std::string SharedDataDir() {
  const char* set = std::getenv("TESSERA_SHARED_DATA");
  const std::string dir = set != nullptr ? set : "../shared/data";
  return std::filesystem::is_directory(dir) ? dir : "";
}

}  // namespace tessera::testing

// Skips the running test if the data set is absent. If the data set is present, tests/run_all.py
// counts such a skip as a failure.
#define REQUIRE_SHARED_DATA(path_variable)                                           \
  const std::string path_variable = ::tessera::testing::SharedDataDir();             \
  if (path_variable.empty()) {                                                       \
    GTEST_SKIP() << "SHARED_DATA absent: ../shared/data is not beside the checkout"; \
  }
