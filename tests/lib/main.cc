#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

int main(int argc, char** argv) {
  spdlog::set_level(spdlog::level::warn);  // a line for each call would hide the test's output
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
