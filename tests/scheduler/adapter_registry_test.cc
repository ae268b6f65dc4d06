// Tests of the names of adapters and blends: revisions, recipes and versions. The registry does not
// parse the adapters' files.
#include "scheduler/residency/adapters/adapter_registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <future>
#include <mutex>
#include <set>
#include <thread>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "scheduler/residency/adapters/adapter_name.h"
#include "tests/lib/any_files.h"
#include "tests/lib/log_capture.h"

namespace tessera::testing {
namespace {

using ::testing::HasSubstr;

// The number of lines of the log that begin with `start`.
int NumLines(const LogCapture& log, absl::string_view start) {
  const std::vector<std::string> lines = absl::StrSplit(log.text(), '\n');
  return static_cast<int>(absl::c_count_if(
      lines, [&](const std::string& line) { return absl::StartsWith(line, start); }));
}

class AdapterRegistryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = ::testing::TempDir() + "/registry_" + std::to_string(getpid());
    for (const char* name : {"red", "blue"}) Write(name, "1");
    RegisterBoth(&registry_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  static AdapterRegistryOptions Options() {
    AdapterRegistryOptions options = AnyFiles();
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
  registry_.status(Get({{"red", "", {}}}).id)->residency = AdapterResidency::kPool;
  RegisterBoth(&registry_);
  EXPECT_EQ(registry_.num_versions(), 1) << "the same files are the same version";
  EXPECT_EQ(registry_.List()[0].residency, AdapterResidency::kPool);
  ASSERT_TRUE(registry_.Register({{"red", "v2", 0, dir_ + "/red"}}).ok());
  EXPECT_EQ(registry_.num_versions(), 0) << "another revision is another version";
  RegisterBoth(&registry_);
  Get({{"red", "", {}}});
  Write("red", "new");
  RegisterBoth(&registry_);
  EXPECT_EQ(registry_.num_versions(), 0);
}

TEST_F(AdapterRegistryTest, TooManyBlendsInUseAreRefused) {
  AdapterRegistryOptions options = Options();
  options.max_blends = 3;
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
  EXPECT_TRUE(registry.Resolve(0, {{"red", "", {}}}).ok()) << "a registered adapter is no blend";
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

TEST_F(AdapterRegistryTest, WhatIsInMemoryServesWhenItsFilesAreGone) {
  const std::vector<AdapterUse> red = {{"red", "", {}}};
  const std::vector<AdapterUse> half = {{"red", "", 0.5f}};
  const ResolvedAdapter plain = Get(red);
  const ResolvedAdapter blend = Get(half);
  Move(plain, AdapterResidency::kPool);
  Move(blend, AdapterResidency::kHost);
  const LogCapture log;
  const int64_t revision = registry_.revision();
  std::filesystem::rename(dir_ + "/red", dir_ + "/moved");
  for (int i = 0; i < 3; ++i) registry_.CheckFilesNow();
  EXPECT_EQ(Get(red).id, plain.id);
  EXPECT_EQ(Get(half).id, blend.id);
  EXPECT_GT(registry_.revision(), revision) << "who watches the list gets it";
  AdapterListing listing = registry_.List()[0];
  EXPECT_EQ(listing.residency, AdapterResidency::kPool);
  EXPECT_EQ(listing.files, AdapterFilesState::kMissing);
  EXPECT_THAT(listing.files_error, HasSubstr(dir_ + "/red/adapter_config.json: no such file"));
  EXPECT_EQ(registry_.List()[1].files, AdapterFilesState::kPresent);
  EXPECT_EQ(NumLines(log, "[warning] adapter red: "), 1);
  // What is not in memory cannot be read any more.
  const absl::Status fresh = registry_.Resolve(0, {{"red", "", 0.25f}}).status();
  EXPECT_EQ(fresh.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(fresh.message(), HasSubstr("adapter red: " + dir_ + "/red/adapter_config.json"));
  Move(plain, AdapterResidency::kDisk);
  EXPECT_EQ(registry_.Resolve(0, red).status().code(), absl::StatusCode::kNotFound);

  std::filesystem::rename(dir_ + "/moved", dir_ + "/red");
  registry_.CheckFilesNow();
  EXPECT_EQ(Get(red).id, plain.id);
  EXPECT_EQ(Get(half).id, blend.id);
  EXPECT_EQ(registry_.List()[0].files, AdapterFilesState::kPresent);
  EXPECT_EQ(registry_.List()[0].files_error, "");
}

TEST_F(AdapterRegistryTest, HalfWrittenFilesDoNotReplaceWhatIsInMemory) {
  std::set<std::string> read_whole;
  AdapterRegistryOptions options = Options();
  options.inspect = [&](const AdapterModel&, const AdapterSource& source,
                        bool whole) -> absl::StatusOr<AdapterFacts> {
    if (whole) read_whole.insert(source.name);
    if (std::filesystem::file_size(source.path + "/adapter_model.safetensors") < 4) {
      return absl::InvalidArgumentError("the file is truncated");
    }
    return AdapterFacts{8, 128};
  };
  for (const char* name : {"red", "blue"}) Write(name, "whole");
  AdapterRegistry registry({{"model", {}}}, options);
  RegisterBoth(&registry);
  const std::vector<AdapterUse> red = {{"red", "", {}}};
  const ResolvedAdapter older = registry.Resolve(0, red).value();
  registry.status(older.id)->residency = AdapterResidency::kPool;
  const LogCapture log;
  for (const char* bytes : {"1", "12"}) {
    for (const char* name : {"red", "blue"}) Write(name, bytes);
    registry.CheckFilesNow();
    EXPECT_EQ(registry.Resolve(0, red)->id, older.id);
    EXPECT_EQ(registry.List()[0].files, AdapterFilesState::kInvalid);
    EXPECT_EQ(registry.List()[0].files_error, "the file is truncated");
  }
  EXPECT_EQ(NumLines(log, "[warning] adapter red: the file is truncated"), 1);
  const absl::Status absent = registry.Resolve(0, {{"blue", "", {}}}).status();
  EXPECT_EQ(absent.code(), absl::StatusCode::kInvalidArgument) << "it is not in memory";
  EXPECT_EQ(absent.message(), "adapter blue: the file is truncated");
  for (const char* name : {"red", "blue"}) Write(name, "other bytes");
  registry.CheckFilesNow();
  EXPECT_NE(registry.Resolve(0, red)->id, older.id);
  EXPECT_TRUE(registry.Resolve(0, {{"blue", "", {}}}).ok());
  EXPECT_EQ(registry.List()[0].files, AdapterFilesState::kPresent);
  EXPECT_EQ(read_whole, std::set<std::string>({"red"})) << "the other one is read when it is used";
}

TEST_F(AdapterRegistryTest, FilesAreCheckedWhenTheyAreRegistered) {
  AdapterRegistryOptions options = Options();
  options.inspect = [](const AdapterModel& model, const AdapterSource& source,
                       bool whole) -> absl::StatusOr<AdapterFacts> {
    EXPECT_EQ(model.name, "model");
    EXPECT_FALSE(whole) << "the tensors are read when the adapter is loaded";
    if (source.name == "blue") return absl::InvalidArgumentError("is no LoRA");
    return AdapterFacts{8, 4096};
  };
  AdapterRegistry registry({{"model", {}}}, options);
  const AdapterSource red = {"red", "", 0, dir_ + "/red"};
  const absl::Status refused = registry.Register({red, {"blue", "", 0, dir_ + "/blue"}});
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(refused.message(), "adapter blue: is no LoRA");
  EXPECT_TRUE(registry.List().empty()) << "all or none";
  ASSERT_TRUE(registry.Register({red}).ok());
  EXPECT_EQ(registry.List()[0].rank, 8) << "known before the first load";
  EXPECT_EQ(registry.List()[0].bytes, 4096);

  const std::string file = dir_ + "/red/adapter_model.safetensors";
  std::filesystem::remove(file);
  const absl::Status missing = registry.Register({red});
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(missing.message(), HasSubstr(file + ": no such file; an adapter is a folder with"));
}

// A folder of adapters may have one that is still being copied.
TEST_F(AdapterRegistryTest, ListedAdaptersThatCannotBeLoadedAreSkipped) {
  AdapterRegistryOptions options = Options();
  options.inspect = [](const AdapterModel&, const AdapterSource& source,
                       bool) -> absl::StatusOr<AdapterFacts> {
    if (source.name == "blue") return absl::InvalidArgumentError("is no LoRA");
    return AdapterFacts{8, 4096};
  };
  AdapterRegistry registry({{"model", {}}}, options);
  for (const char* name : {"a+b", "model"}) Write(name, "1");
  std::vector<AdapterSource> sources = FindAdapters(dir_, 0).value();
  ASSERT_EQ(sources.size(), 4);
  EXPECT_FALSE(registry.Register(sources).ok()) << "who cannot be told gets an error";
  EXPECT_TRUE(registry.List().empty());
  std::vector<absl::Status> skipped;
  ASSERT_TRUE(registry.Register(sources, &skipped).ok());
  ASSERT_EQ(registry.List().size(), 1);
  EXPECT_EQ(registry.List()[0].name, "red");
  ASSERT_EQ(skipped.size(), 3);
  EXPECT_THAT(skipped[0].message(), HasSubstr("/a+b is"));
  EXPECT_EQ(skipped[1].message(), "adapter blue: is no LoRA");
  EXPECT_EQ(skipped[2].code(), absl::StatusCode::kAlreadyExists);
  const std::vector<AdapterSource> named = FindAdapters(dir_ + "/blue", 0).value();
  EXPECT_EQ(registry.Register(named, &skipped).message(), "adapter blue: is no LoRA");
  EXPECT_EQ(skipped.size(), 3);
}

TEST_F(AdapterRegistryTest, TooManyAdaptersAreRefused) {
  AdapterRegistryOptions options = Options();
  options.max_adapters = 2;
  AdapterRegistry registry({{"model", {}}}, options);
  RegisterBoth(&registry);
  RegisterBoth(&registry);
  const AdapterSource third = {"third", "", 0, dir_ + "/red"};
  const absl::Status refused = registry.Register({third});
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(refused.message(), HasSubstr("Control.UnregisterAdapter"));
  ASSERT_TRUE(registry.Unregister("red").ok());
  EXPECT_TRUE(registry.Register({third}).ok());
}

TEST_F(AdapterRegistryTest, NamesAndRevisionsHaveAGrammar) {
  const std::string path = dir_ + "/red";
  for (const std::string& name :
       std::vector<std::string>{"zorvan-1", "a b", "org/name:v1.2", "Größe", "日本", "adapter (1)",
                                "_x", "(x)", "7", std::string(kMaxAdapterNameBytes, 'x')}) {
    EXPECT_EQ(WrongWithAdapterName(name), "") << name;
    EXPECT_TRUE(registry_.Register({{name, name, 0, path}}).ok()) << name;
  }
  const size_t num_listed = registry_.List().size();
  for (const std::string& name :
       std::vector<std::string>{"z*0.5+k*0.5", "z*0.5", "a+b", "a\nb", "a\n", "a\tb", "a=b", "a@v",
                                "a,b", "-a", " a", "a ", ".x", "/x", std::string("a\0b", 3), "\xff",
                                "a\xe2\x80\xae"
                                "b",
                                "a\xe2\x80\x8b", std::string(kMaxAdapterNameBytes + 1, 'x')}) {
    EXPECT_THAT(WrongWithAdapterName(name), HasSubstr("give 1 to 255 bytes of letters")) << name;
    const absl::Status refused = registry_.Register({{name, "", 0, path}});
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(refused.message(), HasSubstr("adapter at " + path)) << name;
    EXPECT_EQ(refused.message().find('\n'), absl::string_view::npos);
    EXPECT_THAT(registry_.Register({{"fine", name, 0, path}}).message(),
                HasSubstr("the revision of the adapter fine"));
  }
  EXPECT_FALSE(registry_.Register({{"", "", 0, path}}).ok());
  EXPECT_EQ(registry_.List().size(), num_listed);
}

TEST_F(AdapterRegistryTest, WhatIsUnregisteredServesOnlyWhoHoldsIt) {
  const ResolvedAdapter red = Get({{"red", "", {}}});
  const ResolvedAdapter blend = Get({{"blue", "", 0.5f}, {"red", "", 0.5f}});
  const ResolvedAdapter blue = Get({{"blue", "", {}}});
  const auto retired = registry_.Unregister("red");
  ASSERT_TRUE(retired.ok()) << retired.status();
  std::set<AdapterId> ids;
  for (const ResolvedAdapter& each : *retired) ids.insert(each.id);
  EXPECT_EQ(ids, std::set<AdapterId>({red.id, blend.id}));
  EXPECT_TRUE(registry_.status(red.id)->retired);
  EXPECT_TRUE(registry_.status(blend.id)->retired);
  EXPECT_FALSE(registry_.status(blue.id)->retired);
  for (const char* name : {"red", "blue*0.5+red*0.5"}) {
    EXPECT_EQ(registry_.Unregister(name).status().code(), absl::StatusCode::kNotFound) << name;
  }
  EXPECT_EQ(registry_.Resolve(0, {{"red", "", {}}}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(registry_.Resolve(0, {{"blue", "", 0.5f}, {"red", "", 0.5f}}).ok());
  EXPECT_EQ(registry_.ModelOf("red"), std::nullopt);
  ASSERT_EQ(registry_.List().size(), 1);
  EXPECT_EQ(registry_.List()[0].name, "blue");
  registry_.CheckFilesNow();
  // The same files under the same name are the same version, which stays in memory again.
  RegisterBoth(&registry_);
  EXPECT_EQ(Get({{"red", "", {}}}).id, red.id);
  EXPECT_FALSE(registry_.status(red.id)->retired);
  EXPECT_TRUE(registry_.status(blend.id)->retired) << "nobody has asked for it again";
}

TEST_F(AdapterRegistryTest, AllVersionsOfANameAreFound) {
  const auto ids = [&](const std::string& name) {
    std::set<AdapterId> ids;
    const std::vector<ResolvedAdapter> versions = registry_.VersionsOf(name).value();
    for (const ResolvedAdapter& each : versions) ids.insert(each.id);
    return ids;
  };
  EXPECT_TRUE(ids("red").empty()) << "it was never asked for";
  const AdapterId older = Get({{"red", "", {}}}).id;
  const AdapterHold pinned = registry_.Hold(older);
  Write("red", "other bytes");
  registry_.CheckFilesNow();
  const AdapterId newer = Get({{"red", "", {}}}).id;
  const ResolvedAdapter blend = Scaled(0.5f);
  EXPECT_EQ(ids("red"), std::set<AdapterId>({older, newer}));
  EXPECT_EQ(ids("red*0.5"), std::set<AdapterId>({blend.id}));
  EXPECT_TRUE(ids("blue").empty());
  for (const char* name : {"", "green", "red*1"}) {
    EXPECT_EQ(registry_.VersionsOf(name).status().code(), absl::StatusCode::kNotFound) << name;
  }
}

TEST_F(AdapterRegistryTest, WeightsAreBounded) {
  EXPECT_TRUE(registry_.Resolve(0, {{"red", "", -1e6f}}).ok());
  for (const float weight : {1.1e6f, -1.1e6f, std::nanf(""), HUGE_VALF}) {
    const absl::Status refused = registry_.Resolve(0, {{"red", "", weight}}).status();
    EXPECT_THAT(refused.message(), HasSubstr("give a number from -1e+06 to 1e+06")) << weight;
  }
}

// The folders that a client may name end at the roots, also through links and parent folders.
TEST_F(AdapterRegistryTest, RootsBoundWhatIsFound) {
  std::filesystem::create_directories(dir_ + "/outside");
  std::filesystem::rename(dir_ + "/blue", dir_ + "/outside/blue");
  std::filesystem::create_directories(dir_ + "/roots");
  std::filesystem::rename(dir_ + "/red", dir_ + "/roots/red");
  std::filesystem::create_directory_symlink(dir_ + "/outside/blue", dir_ + "/roots/link");
  const std::vector<std::string> roots = {dir_ + "/nowhere", dir_ + "/roots/"};
  const auto code = [&](const std::string& path) {
    return FindAdapters(path, 0, roots).status().code();
  };
  for (const char* path : {"/roots", "/roots/", "/roots/red", "/outside/../roots/red/."}) {
    const auto found = FindAdapters(dir_ + path, 0, roots);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(found->back().name, "red");
    EXPECT_EQ(found->back().roots, roots);
  }
  for (const char* path : {"", "/outside", "/outside/blue", "/roots/link", "/roots/../outside",
                           "/rootsX", "/outside/none"}) {
    EXPECT_EQ(code(dir_ + path), absl::StatusCode::kPermissionDenied) << path;
  }
  EXPECT_EQ(code(dir_ + "/roots/none"), absl::StatusCode::kNotFound);
  EXPECT_EQ(code(dir_ + std::string("/roots/red\0x", 12)), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(FindAdapters(dir_, 0, roots).status().message(), HasSubstr("adapters.roots"));
  EXPECT_TRUE(FindAdapters(dir_ + "/outside", 0).ok()) << "without roots, anywhere";
}

TEST_F(AdapterRegistryTest, ARelativePathIsSaidToBeTheServers) {
  const std::string where =
      absl::StrCat("the server's working directory, ", std::filesystem::current_path().string());
  EXPECT_THAT(FindAdapters("no/such/folder", 0).status().message(), HasSubstr(where));
  EXPECT_THAT(FindAdapters("tests/scheduler", 0).status().message(), HasSubstr(where));
  EXPECT_THAT(FindAdapters("tests/scheduler", 0, {dir_}).status().message(), HasSubstr(where));
  EXPECT_EQ(FindAdapters(dir_ + "/none", 0).status().message().find("working"),
            absl::string_view::npos);
}

// The files become readable although nothing of their identity changes: their mode, or the number
// of files that the process may open.
TEST_F(AdapterRegistryTest, FilesThatCanBeReadAgainAreServedAgain) {
  absl::Status reading = absl::OkStatus();
  AdapterRegistryOptions options = Options();
  options.inspect = [&](const AdapterModel&, const AdapterSource&,
                        bool) -> absl::StatusOr<AdapterFacts> {
    if (!reading.ok()) return reading;
    return AdapterFacts{8, 128};
  };
  AdapterRegistry registry({{"model", {}}}, options);
  RegisterBoth(&registry);
  const std::vector<AdapterUse> red = {{"red", "", {}}};
  for (const absl::Status& passing :
       {absl::UnavailableError("too many open files"), absl::FailedPreconditionError("no right")}) {
    Write("red", std::string(passing.message()));
    reading = passing;
    registry.CheckFilesNow();
    EXPECT_EQ(registry.List()[0].files, AdapterFilesState::kInvalid);
    const int64_t revision = registry.revision();
    registry.CheckFilesNow();
    EXPECT_EQ(registry.revision(), revision) << "nothing changed";
    reading = absl::OkStatus();
    registry.CheckFilesNow();
    EXPECT_GT(registry.revision(), revision);
    EXPECT_EQ(registry.List()[0].files, AdapterFilesState::kPresent);
    EXPECT_TRUE(registry.Resolve(0, red).ok());
  }
  Write("red", "damaged");
  reading = absl::InvalidArgumentError("damaged");
  registry.CheckFilesNow();
  reading = absl::OkStatus();
  registry.CheckFilesNow();
  EXPECT_FALSE(registry.Resolve(0, red).ok()) << "the content is the same";
}

// A registration of thousands of adapters takes long. Loads of other adapters go on meanwhile.
TEST_F(AdapterRegistryTest, AFailedLoadDoesNotWaitForARegistration) {
  std::promise<void> begun;
  std::promise<void> end;
  std::atomic<bool> blocks{false};
  AdapterRegistryOptions options = Options();
  options.inspect = [&](const AdapterModel&, const AdapterSource&, bool) {
    if (blocks.exchange(false)) {
      begun.set_value();
      end.get_future().wait();
    }
    return kAnyFacts;
  };
  AdapterRegistry registry({{"model", {}}}, options);
  RegisterBoth(&registry);
  const ResolvedAdapter red = registry.Resolve(0, {{"red", "", {}}}).value();
  blocks = true;
  std::thread registration([&] { RegisterBoth(&registry); });
  begun.get_future().wait();
  auto build = std::async(std::launch::async, [&] { return registry.Build(red.id).ok(); });
  EXPECT_EQ(build.wait_for(std::chrono::seconds(30)), std::future_status::ready);
  end.set_value();
  registration.join();
  EXPECT_FALSE(build.get());
}

// The check of a registration reads headers only, so it does not find damaged values.
TEST_F(AdapterRegistryTest, DamageThatALoadFindsIsNotReadAgain) {
  const LogCapture log;
  for (const float weight : {1.0f, 0.5f}) {
    const std::string name = weight == 1.0f ? "red" : "blue";
    const std::vector<AdapterUse> uses = {{name, "", weight}};
    const int64_t revision = registry_.revision();
    {
      const ResolvedAdapter adapter = Get(uses);
      const absl::Status damage = registry_.Build(adapter.id).status();  // "{}" is no configuration
      ASSERT_EQ(damage.code(), absl::StatusCode::kInvalidArgument) << damage;
      EXPECT_EQ(registry_.Resolve(0, uses).status().message(),
                absl::StrCat("adapter ", name, ": ", damage.message()));
    }
    EXPECT_GT(registry_.revision(), revision);
    const AdapterListing listing = registry_.List()[name == "red" ? 0 : 1];
    EXPECT_EQ(listing.files, AdapterFilesState::kInvalid);
    EXPECT_THAT(listing.files_error, HasSubstr("adapter_config.json"));
    // A check of the headers clears nothing while the files are the same.
    registry_.CheckFilesNow();
    RegisterBoth(&registry_);
    EXPECT_FALSE(registry_.Resolve(0, uses).ok());
    Write(name, "other bytes");
    registry_.CheckFilesNow();
    EXPECT_TRUE(registry_.Resolve(0, uses).ok());
  }
  EXPECT_EQ(NumLines(log, "[warning] adapter red: "), 1);
}

// A load that fails because of other files says nothing about the files that are there now.
TEST_F(AdapterRegistryTest, DamageOfOtherFilesIsNotNoted) {
  const ResolvedAdapter older = Get({{"red", "", {}}});
  Write("red", "other bytes");
  EXPECT_FALSE(registry_.Build(older.id).ok());
  EXPECT_EQ(registry_.List()[0].files, AdapterFilesState::kPresent);
  EXPECT_NE(Get({{"red", "", {}}}).id, older.id);
}

// Only Register and the registry's own thread access the disk; Resolve, FindBlend and List do not.
TEST_F(AdapterRegistryTest, RequestsDoNotAskTheDisk) {
  std::mutex mutex;
  std::condition_variable looked;
  int num_looks = 0;
  std::set<std::thread::id> threads;
  AdapterRegistryOptions options = AnyFiles();
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
