// Tests of the rule that assigns modules to the config groups of compressed-tensors: it decides as
// the library itself (tests/golden/make_quantization_targets_golden.py), knows the names of fused
// and nested modules, and refuses bad expressions of foreign files.
#include "kernels/model/checkpoint/quantization_targets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "kernels/model/checkpoint/weight_table.h"

namespace tessera::testing {
namespace {

using Json = nlohmann::json;
using Group = std::optional<int32_t>;
using Targets = std::vector<std::vector<std::string>>;  // of each group
using ::testing::HasSubstr;

constexpr int kLayers = 2;
constexpr int32_t kIgnored = QuantizationTargets::kIgnored;
const char* const kQ = "model.layers.1.self_attn.q_proj";
const char* const kUp = "model.layers.0.mlp.up_proj";

QuantizationTargets Make(const Targets& targets, const std::vector<std::string>& ignore,
                         bool multimodal = false) {
  QuantizationTargets rule(multimodal);
  for (size_t group = 0; group < targets.size(); ++group) {
    for (const std::string& target : targets[group]) {
      const absl::Status status = rule.AddTarget(target, static_cast<int32_t>(group));
      EXPECT_TRUE(status.ok()) << status;
    }
  }
  for (const std::string& ignored : ignore) {
    const absl::Status status = rule.AddIgnored(ignored);
    EXPECT_TRUE(status.ok()) << status;
  }
  return rule;
}

Group GroupOf(const QuantizationTargets& rule, const std::string& module) {
  const auto group = rule.GroupOf({module});
  EXPECT_TRUE(group.ok()) << group.status();
  return group.value_or(std::nullopt);
}

TEST(QuantizationTargetsTest, DecidesLikeTheLibrary) {
  std::ifstream file("tests/golden/quantization_targets.json");
  const Json cases = Json::parse(file);
  EXPECT_GE(cases.size(), 30u);
  for (const Json& test : cases) {
    const QuantizationTargets rule =
        Make(test["targets"].get<Targets>(), test["ignore"].get<std::vector<std::string>>(),
             test["multimodal"].get<bool>());
    const Json& groups = test["groups"];
    EXPECT_EQ(groups.size(), MatrixModules(kLayers).size());
    for (const ModuleName& module : MatrixModules(kLayers)) {
      const auto group = rule.GroupOf(module);
      ASSERT_TRUE(group.ok()) << group.status();
      const Json& expected = groups.at(module.name);
      EXPECT_EQ(group->value_or(kIgnored), expected.is_null() ? kIgnored : expected.get<int32_t>())
          << test["name"] << " " << module.name;
    }
  }
}

TEST(QuantizationTargetsTest, IgnoredIsNotUnmatched) {
  const QuantizationTargets rule = Make({{"re:.*q_proj"}}, {"lm_head"});
  EXPECT_EQ(GroupOf(rule, kQ), Group(0));
  EXPECT_EQ(GroupOf(rule, "lm_head"), Group(kIgnored));
  EXPECT_EQ(GroupOf(rule, kUp), std::nullopt);
}

// vLLM runs some linears as one, and a file that is written for it may name only the fused one.
TEST(QuantizationTargetsTest, FusedNamesMeanTheirParts) {
  const QuantizationTargets rule =
      Make({{"re:.*qkv_proj"}, {"Linear"}}, {"model.layers.0.mlp.gate_up_proj"});
  for (const char* part : {"q_proj", "k_proj", "v_proj"}) {
    EXPECT_EQ(GroupOf(rule, absl::StrCat("model.layers.0.self_attn.", part)), Group(0)) << part;
  }
  EXPECT_EQ(GroupOf(rule, "model.layers.0.self_attn.o_proj"), Group(1));
  EXPECT_EQ(GroupOf(rule, "model.layers.0.mlp.gate_proj"), Group(kIgnored));
  EXPECT_EQ(GroupOf(rule, kUp), Group(kIgnored));
  EXPECT_EQ(GroupOf(rule, "model.layers.1.mlp.up_proj"), Group(1));
  // An expression that spares q_proj matches the name of the fused module but does not mean it.
  EXPECT_EQ(GroupOf(Make({{"Linear"}}, {"re:^(?!.*\\.q_proj).*"}), kQ), Group(0));
}

TEST(QuantizationTargetsTest, NestedModulesHaveThreeNames) {
  for (const char* prefix : {"model.", "language_model.model.", "model.language_model."}) {
    const Targets targets = {{absl::StrCat("re:", prefix, "layers.1.*")}, {"Linear"}};
    const std::vector<std::string> ignore = {absl::StrCat(prefix, "layers.0.mlp.up_proj")};
    const QuantizationTargets rule = Make(targets, ignore, /*multimodal=*/true);
    EXPECT_EQ(GroupOf(rule, kQ), Group(0)) << prefix;
    EXPECT_EQ(GroupOf(rule, kUp), Group(kIgnored)) << prefix;
    EXPECT_EQ(GroupOf(rule, "model.layers.0.mlp.down_proj"), Group(1)) << prefix;
  }
  const Targets linears = {{"Linear"}};
  EXPECT_EQ(GroupOf(Make(linears, {"language_model.lm_head"}, true), "lm_head"), Group(kIgnored));
  EXPECT_EQ(GroupOf(Make(linears, {"language_model.lm_head"}), "lm_head"), Group(0));
  EXPECT_EQ(GroupOf(Make({{"re:.*language_model.*qkv_proj"}}, {}, true), kQ), Group(0));
}

TEST(QuantizationTargetsTest, BadEntriesAreRefused) {
  QuantizationTargets rule(/*multimodal=*/false);
  EXPECT_THAT(std::string(rule.AddTarget("re:.*(mlp", 0).message()),
              HasSubstr("\"re:.*(mlp\" is no regular expression: missing closing parenthesis"));
  EXPECT_THAT(std::string(rule.AddIgnored("re:*").message()), HasSubstr("no regular expression"));
  EXPECT_THAT(std::string(rule.AddIgnored("re:" + std::string(40000, 'a')).message()),
              HasSubstr("40000 bytes"));
  EXPECT_TRUE(rule.AddTarget("re:.*mlp.*", 0).ok());
  EXPECT_TRUE(rule.AddTarget("re:.*mlp.*", 0).ok());
  EXPECT_THAT(std::string(rule.AddTarget("re:.*mlp.*", 1).message()), HasSubstr("two groups"));
}

TEST(QuantizationTargetsTest, SlowExpressionsAreRefused) {
  for (const char* slow :
       {"re:(a|a|m|mo|o|[a-z]|.)+(.+)+[!%]", "re:(((.*)*)*)*[!%]", "re:.*.*.*.*.*.*[!%]"}) {
    for (const bool ignored : {false, true}) {
      const std::vector<std::string> list = {slow};
      const auto group = ignored ? Make({}, list).GroupOf({kQ}) : Make({list}, {}).GroupOf({kQ});
      EXPECT_THAT(std::string(group.status().message()), HasSubstr(absl::StrCat(slow, "\" takes")))
          << slow;
      EXPECT_THAT(std::string(group.status().message()), HasSubstr(kQ));
    }
  }
}

TEST(QuantizationTargetsTest, EntriesAreLimited) {
  QuantizationTargets rule(/*multimodal=*/false);
  for (size_t i = 0; i < QuantizationTargets::kMaxTargets; ++i) {
    ASSERT_TRUE(rule.AddTarget(absl::StrCat("model.layers.", i, ".mlp.up_proj"), 0).ok());
  }
  EXPECT_THAT(std::string(rule.AddIgnored("lm_head").message()), HasSubstr("more than 4096"));
  EXPECT_EQ(GroupOf(rule, kUp), Group(0));
}

}  // namespace
}  // namespace tessera::testing
