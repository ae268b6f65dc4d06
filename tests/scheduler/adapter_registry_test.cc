// What adapters and blends are called: names, revisions, recipes. What the files hold is not read
// here.
#include "scheduler/residency/adapters/adapter_registry.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace tessera::testing {
namespace {

class AdapterRegistryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = ::testing::TempDir() + "/registry_" + std::to_string(getpid());
    for (const char* name : {"red", "blue"}) Write(name, "1");
    ASSERT_TRUE(
        registry_.Register({{"red", "", 0, dir_ + "/red"}, {"blue", "v2", 0, dir_ + "/blue"}})
            .ok());
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  void Write(const std::string& name, const std::string& bytes) {
    std::filesystem::create_directories(dir_ + "/" + name);
    std::ofstream(dir_ + "/" + name + "/adapter_config.json") << "{}";
    std::ofstream(dir_ + "/" + name + "/adapter_model.safetensors") << bytes;
  }
  AdapterId IdOf(const std::vector<AdapterUse>& uses) {
    return registry_.Resolve(0, uses).value().id;
  }
  void Move(AdapterId id, AdapterResidency to) { registry_.status(id)->residency = to; }

  std::string dir_;
  AdapterRegistry registry_{{{"model", {}}}};
};

TEST_F(AdapterRegistryTest, BlendsInMemoryAreListedByTheirRecipes) {
  const AdapterId blend = IdOf({{"red", "", 0.6f}, {"blue", "", -0.1f}});
  const AdapterId scaled = IdOf({{"red", "", 1e-8f}});
  const AdapterId plain = IdOf({{"red", "", 1.0f}});
  EXPECT_EQ(plain, IdOf({{"red", "", {}}}));
  EXPECT_EQ(registry_.List().size(), 2);
  registry_.status(blend)->rank = 12;
  for (const AdapterId id : {blend, scaled, plain}) Move(id, AdapterResidency::kHost);
  const std::vector<AdapterListing> list = registry_.List();
  ASSERT_EQ(list.size(), 4);
  EXPECT_EQ(list[0].name, "red");
  EXPECT_EQ(list[0].residency, AdapterResidency::kHost);
  EXPECT_EQ(list[2].name, "red*0.6+blue@v2*-0.1");
  EXPECT_EQ(list[2].residency, AdapterResidency::kHost);
  EXPECT_EQ(list[2].rank, 12);
  EXPECT_EQ(list[3].name, "red*1e-08");
  EXPECT_EQ(registry_.FindBlend("red*0.6+blue@v2*-0.1"), blend);
  EXPECT_EQ(registry_.FindBlend("red*1e-08"), scaled);
  EXPECT_EQ(registry_.FindBlend("red"), kNoAdapter);
  EXPECT_EQ(registry_.FindBlend("red*1"), kNoAdapter);
  EXPECT_EQ(registry_.FindBlend(""), kNoAdapter);
  Move(blend, AdapterResidency::kDisk);
  EXPECT_EQ(registry_.List().size(), 3);
}

// A rank is part of what a blend is, even of one adapter alone.
TEST_F(AdapterRegistryTest, RanksAreBlendsOfTheirOwn) {
  const std::vector<AdapterUse> uses = {{"red", "", 0.5f}, {"blue", "", {}}};
  const ResolvedAdapter exact = registry_.Resolve(0, uses).value();
  const ResolvedAdapter four = registry_.Resolve(0, uses, 4).value();
  const ResolvedAdapter eight = registry_.Resolve(0, uses, 8).value();
  EXPECT_EQ(registry_.Resolve(0, uses, 4)->id, four.id);
  EXPECT_NE(exact.id, four.id);
  EXPECT_NE(four.id, eight.id);
  EXPECT_NE(exact.key, four.key);
  EXPECT_NE(four.key, eight.key);
  EXPECT_EQ(registry_.FindBlend("red*0.5+blue@v2*1"), exact.id);
  EXPECT_EQ(registry_.FindBlend("red*0.5+blue@v2*1:r4"), four.id);
  EXPECT_EQ(registry_.FindBlend("red*0.5+blue@v2*1:r8"), eight.id);
  const AdapterId alone = registry_.Resolve(0, {{"red", "", {}}}, 2)->id;
  Move(alone, AdapterResidency::kPool);
  ASSERT_EQ(registry_.List().size(), 3);
  EXPECT_EQ(registry_.List()[0].residency, AdapterResidency::kDisk);
  EXPECT_EQ(registry_.List()[2].name, "red*1:r2");
}

// Files that changed give a recipe a second blend.
TEST_F(AdapterRegistryTest, ARecipeMeansWhatIsInMemoryThenWhatIsNewer) {
  const std::vector<AdapterUse> uses = {{"red", "", 0.5f}, {"blue", "", 0.5f}};
  const AdapterId older = IdOf(uses);
  Write("red", "other bytes");
  const AdapterId newer = IdOf(uses);
  ASSERT_NE(older, newer);
  const std::string recipe = "red*0.5+blue@v2*0.5";
  EXPECT_EQ(registry_.FindBlend(recipe), newer);
  Move(older, AdapterResidency::kPool);
  EXPECT_EQ(registry_.FindBlend(recipe), older);
  Move(newer, AdapterResidency::kHost);
  EXPECT_EQ(registry_.FindBlend(recipe), newer);
  EXPECT_EQ(registry_.List().size(), 4);
}

}  // namespace
}  // namespace tessera::testing
