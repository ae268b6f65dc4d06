// Tests of what all client programs do with the words of their command lines.
#include "server/cli/arguments.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "server/cli/connection.h"

namespace tessera::cli {
namespace {

using Words = std::vector<std::string>;

const std::vector<FlagSpec>& Flags() {
  static const auto* const flags = new std::vector<FlagSpec>{
      {"--server", "HOST:PORT", ""}, {"--token-file", "FILE", ""}, {"--json", nullptr, ""}};
  return *flags;
}

void ExpectTaken(Words words, const std::string& name, const Words& rest) {
  EXPECT_EQ(TakeCommand(Flags(), &words), name);
  EXPECT_EQ(words, rest);
}

TEST(TakeCommandTest, TheNameIsTheFirstWordThatIsNoFlagAndNoValueOfOne) {
  ExpectTaken({"health"}, "health", {});
  ExpectTaken({"health", "service"}, "health", {"service"});
  ExpectTaken({"--json", "health"}, "health", {"--json"});
  ExpectTaken({"--server", "a:1", "health", "x"}, "health", {"--server", "a:1", "x"});
  ExpectTaken({"--server=a:1", "health", "x"}, "health", {"--server=a:1", "x"});
  ExpectTaken({"--token-file", "health", "--json", "load"}, "load",
              {"--token-file", "health", "--json"});
}

TEST(TakeCommandTest, WithoutANameNothingIsTaken) {
  ExpectTaken({}, "", {});
  ExpectTaken({"--json"}, "", {"--json"});
  ExpectTaken({"--server", "a:1"}, "", {"--server", "a:1"});
  ExpectTaken({"--server"}, "", {"--server"});
}

TEST(TakeCommandTest, SkipsTheValueOfEachFlagOfAConnection) {
  for (const FlagSpec& flag : ConnectionFlags()) {
    Words words = {flag.name};
    if (flag.value != nullptr) words.emplace_back("value");
    words.emplace_back("health");
    EXPECT_EQ(TakeCommand(ConnectionFlags(), &words), "health") << flag.name;
  }
}

}  // namespace
}  // namespace tessera::cli
