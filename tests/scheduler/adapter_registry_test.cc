// Tests of the names of adapters and blends: revisions, recipes and versions. The registry does not
// parse the adapters' files.
#include "scheduler/residency/adapters/adapter_registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <set>
#include <thread>

namespace tessera::testing {
namespace {

using ::testing::HasSubstr;

class AdapterRegistryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = ::testing::TempDir() + "/registry_" + std::to_string(getpid());
    for (const char* name : {"red", "blue"}) Write(name, "1");
    RegisterBoth(&registry_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  static AdapterRegistryOptions Options() {
    AdapterRegistryOptions options;
    options.check_interval_us = 0;
    return options;
  }
  void RegisterBoth(AdapterRegistry* registry) {
    ASSERT_TRUE(
        registry->Register({{"red", "", 0, dir_ + "/red"}, {"blue", "v2", 0, dir_ + "/blue"}})
            .ok());
  }
  void Write(const std::string& name, const std::string& bytes) {
    std::filesystem::create_directories(dir_ + "/" + name);
    std::ofstream(dir_ + "/" + name + "/adapter_config.json") << "{}";
    std::ofstream(dir_ + "/" + name + "/adapter_model.safetensors") << bytes;
  }
  ResolvedAdapter Get(const std::vector<AdapterUse>& uses) {
    return registry_.Resolve(0, uses).value();
  }
  ResolvedAdapter Scaled(float weight) { return Get({{"red", "", weight}}); }
  void Move(const ResolvedAdapter& adapter, AdapterResidency to) {
    registry_.status(adapter.id)->residency = to;
  }

  std::string dir_;
  AdapterRegistry registry_{{{"model", {}}}, Options()};
};

TEST_F(AdapterRegistryTest, BlendsInMemoryAreListedByTheirRecipes) {
  const ResolvedAdapter blend = Get({{"red", "", 0.6f}, {"blue", "", -0.1f}});
  const ResolvedAdapter scaled = Get({{"red", "", 1e-8f}});
  const ResolvedAdapter plain = Get({{"red", "", 1.0f}});
  EXPECT_EQ(plain.id, Get({{"red", "", {}}}).id);
  EXPECT_EQ(registry_.List().size(), 2);
  registry_.status(blend.id)->rank = 12;
  for (const ResolvedAdapter* each : {&blend, &scaled, &plain}) {
    Move(*each, AdapterResidency::kHost);
  }
  const std::vector<AdapterListing> list = registry_.List();
  ASSERT_EQ(list.size(), 4);
  EXPECT_EQ(list[0].name, "red");
  EXPECT_EQ(list[0].residency, AdapterResidency::kHost);
  EXPECT_EQ(list[2].name, "red*0.6+blue@v2*-0.1");
  EXPECT_EQ(list[2].residency, AdapterResidency::kHost);
  EXPECT_EQ(list[2].rank, 12);
  EXPECT_EQ(list[3].name, "red*1e-08");
  EXPECT_EQ(registry_.FindBlend("red*0.6+blue@v2*-0.1").id, blend.id);
  EXPECT_EQ(registry_.FindBlend("red*1e-08").id, scaled.id);
  EXPECT_EQ(registry_.FindBlend("red").id, kNoAdapter);
  EXPECT_EQ(registry_.FindBlend("red*1").id, kNoAdapter);
  EXPECT_EQ(registry_.FindBlend("").id, kNoAdapter);
  Move(blend, AdapterResidency::kDisk);
  EXPECT_EQ(registry_.List().size(), 3);
}

// Recipes that differ only in the rank are different blends, even with one adapter.
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
  EXPECT_EQ(registry_.FindBlend("red*0.5+blue@v2*1").id, exact.id);
  EXPECT_EQ(registry_.FindBlend("red*0.5+blue@v2*1:r4").id, four.id);
  EXPECT_EQ(registry_.FindBlend("red*0.5+blue@v2*1:r8").id, eight.id);
  const ResolvedAdapter alone = registry_.Resolve(0, {{"red", "", {}}}, 2).value();
  Move(alone, AdapterResidency::kPool);
  ASSERT_EQ(registry_.List().size(), 3);
  EXPECT_EQ(registry_.List()[0].residency, AdapterResidency::kDisk);
  EXPECT_EQ(registry_.List()[2].name, "red*1:r2");
}

// After an adapter's files change, its recipe names two blends. The recipe then means the newest
// blend in memory, or else the newer one.
TEST_F(AdapterRegistryTest, ARecipeMeansWhatIsInMemoryThenWhatIsNewer) {
  const std::vector<AdapterUse> uses = {{"red", "", 0.5f}, {"blue", "", 0.5f}};
  const ResolvedAdapter older = Get(uses);
  Write("red", "other bytes");
  registry_.CheckFilesNow();
  const ResolvedAdapter newer = Get(uses);
  ASSERT_NE(older.id, newer.id);
  EXPECT_NE(older.key, newer.key);
  const std::string recipe = "red*0.5+blue@v2*0.5";
  EXPECT_EQ(registry_.FindBlend(recipe).id, newer.id);
  Move(older, AdapterResidency::kPool);
  EXPECT_EQ(registry_.FindBlend(recipe).id, older.id);
  Move(newer, AdapterResidency::kHost);
  EXPECT_EQ(registry_.FindBlend(recipe).id, newer.id);
  EXPECT_EQ(registry_.List().size(), 4);
}

TEST_F(AdapterRegistryTest, WhatNobodyHoldsIsForgotten) {
  const ResolvedAdapter held = Scaled(0.5f);
  const ResolvedAdapter first = Scaled(2.0f);
  AdapterId last = first.id;
  for (int i = 1; i < 100'000; ++i) {
    const ResolvedAdapter next = Scaled(2.0f + static_cast<float>(i));
    ASSERT_GT(next.id, last);  // an id is never reused
    last = next.id;
  }
  EXPECT_EQ(registry_.num_versions(), 2);
  EXPECT_EQ(registry_.List().size(), 2);
  EXPECT_EQ(registry_.FindBlend("red*3").id, kNoAdapter);
  EXPECT_EQ(registry_.FindBlend("red*0.5").id, held.id);
  EXPECT_EQ(Scaled(0.5f).id, held.id);
}

TEST_F(AdapterRegistryTest, AForgottenBlendHasItsKeyAgain) {
  ResolvedAdapter blend = Scaled(0.5f);
  const AdapterId id = blend.id;
  const std::string key = blend.key;
  blend = {};
  EXPECT_EQ(registry_.num_versions(), 0);
  blend = Scaled(0.5f);
  EXPECT_GT(blend.id, id);
  EXPECT_EQ(blend.key, key);
}

// Any copy of a hold keeps its version. A version whose last hold was dropped can be held again
// until the registry forgets it.
TEST_F(AdapterRegistryTest, AnyHoldKeepsAVersion) {
  AdapterHold kept;
  AdapterId id;
  {
    const ResolvedAdapter blend = Scaled(0.5f);
    id = blend.id;
    AdapterHold copy = blend.hold;
    kept = std::move(copy);
  }
  EXPECT_EQ(registry_.num_versions(), 1);
  AdapterHold engine = registry_.Hold(id);
  kept = AdapterHold();
  EXPECT_EQ(Scaled(0.5f).id, id);
  kept = engine;
  engine = AdapterHold();
  EXPECT_EQ(registry_.FindBlend("red*0.5").id, id);
  kept = AdapterHold();
  EXPECT_EQ(registry_.FindBlend("red*0.5").id, kNoAdapter);
  EXPECT_EQ(registry_.num_versions(), 0);
}

TEST_F(AdapterRegistryTest, TheLatestOfARegisteredAdapterStays) {
  const AdapterId older = Get({{"red", "", {}}}).id;
  EXPECT_EQ(registry_.num_versions(), 1);
  EXPECT_EQ(Get({{"red", "", {}}}).id, older);
  Write("red", "other bytes");
  registry_.CheckFilesNow();
  {
    const AdapterHold running = registry_.Hold(older);
    EXPECT_GT(Get({{"red", "", {}}}).id, older);
    EXPECT_EQ(registry_.num_versions(), 2);
  }
  EXPECT_EQ(registry_.num_versions(), 1);
  RegisterBoth(&registry_);
  EXPECT_EQ(registry_.num_versions(), 0);
}

TEST_F(AdapterRegistryTest, TooManyVersionsInUseAreRefused) {
  AdapterRegistryOptions options = Options();
  options.max_versions = 3;
  AdapterRegistry registry({{"model", {}}}, options);
  RegisterBoth(&registry);
  std::vector<ResolvedAdapter> held;
  for (const float weight : {2.0f, 3.0f, 4.0f}) {
    held.push_back(registry.Resolve(0, {{"red", "", weight}}).value());
  }
  const absl::Status refused = registry.Resolve(0, {{"red", "", 5.0f}}).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(refused.message(), HasSubstr("Control.UnloadAdapter"));
  EXPECT_EQ(registry.Resolve(0, {{"red", "", 4.0f}})->id, held[2].id);
  held.pop_back();
  EXPECT_TRUE(registry.Resolve(0, {{"red", "", 5.0f}}).ok());
}

TEST_F(AdapterRegistryTest, ThreadsShareVersions) {
  constexpr int kThreads = 4;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([this, t] {
      AdapterHold engine;
      for (int i = 0; i < 3'000; ++i) {
        const ResolvedAdapter blend = Scaled(2.0f + static_cast<float>((i * (t + 1)) % 3));
        engine = registry_.Hold(blend.id);
        registry_.status(blend.id)->residency = AdapterResidency::kHost;
        EXPECT_LE(registry_.List().size(), 2 + 3);
        registry_.FindBlend("red*3");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(registry_.num_versions(), 0);
}

// When an adapter's old files are put back, its name resolves to the old version if that version is
// still held.
TEST_F(AdapterRegistryTest, FilesThatArePutBackAreTheirOldVersion) {
  const auto turn_to = [&](const std::string& kept, const std::string& put) {
    std::filesystem::rename(dir_ + "/red", dir_ + "/" + kept);
    std::filesystem::rename(dir_ + "/" + put, dir_ + "/red");
    registry_.CheckFilesNow();
    return Get({{"red", "", {}}});
  };
  const ResolvedAdapter older = Get({{"red", "", {}}});
  registry_.status(older.id)->rank = 1;
  Write("other", "other bytes");
  const ResolvedAdapter newer = turn_to("was", "other");
  EXPECT_NE(newer.id, older.id);
  registry_.status(newer.id)->rank = 2;
  EXPECT_EQ(registry_.List()[0].rank, 2);
  EXPECT_EQ(turn_to("other", "was").id, older.id);
  EXPECT_EQ(registry_.List()[0].rank, 1);
}

TEST_F(AdapterRegistryTest, AMissingFileIsNamedUntilItIsThere) {
  const std::string file = dir_ + "/red/adapter_model.safetensors";
  std::filesystem::remove(file);
  RegisterBoth(&registry_);
  const absl::Status missing = registry_.Resolve(0, {{"red", "", {}}}).status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(missing.message(), HasSubstr(file + ": no such file; an adapter is a folder with"));
  EXPECT_TRUE(registry_.Resolve(0, {{"blue", "", {}}}).ok());
  Write("red", "1");
  registry_.CheckFilesNow();
  EXPECT_TRUE(registry_.Resolve(0, {{"red", "", {}}}).ok());
}

// Only Register and the registry's own thread access the disk; Resolve, FindBlend and List do not.
TEST_F(AdapterRegistryTest, RequestsDoNotAskTheDisk) {
  std::mutex mutex;
  std::condition_variable looked;
  int num_looks = 0;
  std::set<std::thread::id> threads;
  AdapterRegistryOptions options;
  options.check_interval_us = 100;
  options.identity = [&](const std::string& path) {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      ++num_looks;
      threads.insert(std::this_thread::get_id());
    }
    looked.notify_all();
    return IdentityOfAdapterFiles(path);
  };
  AdapterRegistry registry({{"model", {}}}, options);
  RegisterBoth(&registry);
  const ResolvedAdapter older = registry.Resolve(0, {{"red", "", {}}}).value();
  Write("red", "other bytes");
  {
    std::unique_lock<std::mutex> lock(mutex);
    threads.clear();
    // The registry's thread looks at the two adapters in turn, so the next two looks cover both
    // adapters. The third look starts after both have ended.
    const int third = num_looks + 3;
    looked.wait(lock, [&] { return num_looks >= third; });
  }
  EXPECT_NE(registry.Resolve(0, {{"red", "", {}}})->id, older.id);
  registry.FindBlend("red*2");
  registry.List();
  const std::lock_guard<std::mutex> lock(mutex);
  EXPECT_EQ(threads.size(), 1);
  EXPECT_EQ(threads.count(std::this_thread::get_id()), 0);
}

}  // namespace
}  // namespace tessera::testing
