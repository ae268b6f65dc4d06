// Tests of adapters in the engine. A request's tokens and logprobs have the bits that they have
// when the request runs alone, whatever else happens: other adapters in its batch, eviction from
// the pool, a small pool, failed loads, commands of operators.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <random>

#include "absl/algorithm/container.h"
#include "tests/lib/log_capture.h"
#include "tests/lib/real_stack.h"
#include "tests/lib/sanitizers.h"
#include "tests/lib/tiny_model.h"

namespace tessera::testing {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kRandomRounds = kSanitized ? 150 : 800;

const char* const kModel = "qwen2";
const std::string kAdapters = "tests/golden/adapters/qwen2/";

std::string Copy(const std::string& name) {
  const std::string dir = ::testing::TempDir() + "/adapters_" + std::to_string(getpid()) + "_" +
                          ::testing::UnitTest::GetInstance()->current_test_info()->name();
  std::filesystem::create_directories(dir);
  std::filesystem::remove_all(dir + "/" + name);
  std::filesystem::copy(kAdapters + name, dir + "/" + name);
  return dir + "/" + name;
}

class AdaptersTest : public ::testing::TestWithParam<std::string> {
 protected:
  RealStackOptions Options() const {
    RealStackOptions options;
    options.model_dirs = {GoldenModelDir(kModel)};
    options.backend = GetParam();
    options.bf16 = true;
    options.engine.max_num_seqs = 8;
    options.engine.max_num_batched_tokens = 48;
    options.engine.deployment_secret = "test";
    return options;
  }

  static std::unique_ptr<RealStack> Start(const RealStackOptions& options) {
    auto stack = std::make_unique<RealStack>(options);
    EXPECT_TRUE(stack->adapters()
                    .Register({{"plain", "", 0, kAdapters + "plain"},
                               {"patterns", "", 0, kAdapters + "patterns"}})
                    .ok());
    return stack;
  }

  // The recipes of these tests: the base model, each adapter, and blends of both.
  static std::vector<AdapterUse> Recipe(int number) {
    switch (number) {
      case 0:
        return {};
      case 1:
        return {{"plain", "", {}}};
      case 2:
        return {{"patterns", "", {}}};
      default:
        return {{"plain", "", 0.25f * static_cast<float>(number)}, {"patterns", "", -0.5f}};
    }
  }

  static Request NewRequest(RealStack* stack, int recipe, uint32_t seed) {
    std::mt19937 rng(seed);
    Request r;
    const auto adapter = stack->adapters().Resolve(0, Recipe(recipe));
    EXPECT_TRUE(adapter.ok()) << adapter.status();
    if (adapter.ok()) r.adapter = *adapter;
    const uint32_t length = 1 + rng() % 40;
    for (uint32_t i = 0; i < length; ++i) r.prompt.push_back(static_cast<TokenId>(rng() % 150));
    r.stopping.max_tokens = 1 + static_cast<int64_t>(rng() % 12);
    r.stopping.ignore_eos = true;
    r.logprobs = 2;
    r.sampling.seed = seed;
    r.sampling.temperature = rng() % 2 == 0 ? 0.0f : 0.8f;
    return r;
  }
};

INSTANTIATE_TEST_SUITE_P(Backend, AdaptersTest, ::testing::ValuesIn(AllBackends()),
                         [](const auto& info) { return info.param; });

TEST_P(AdaptersTest, GreedyTokensAreTheModels) {
  RealStackOptions options = Options();
  options.bf16 = false;
  const auto stack = Start(options);
  TestBackend backend(GetParam());
  TinyModel tiny(GoldenModelDir(kModel), backend.backend.get());
  const auto adapter = PeftAdapter::Open(tiny.spec(), kAdapters + "patterns");
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  const auto image = BuildAdapterImage(tiny.spec(), {{adapter->get(), 1.0f}}, DType::kF32,
                                       tiny.layout().page_bytes());
  const int number = tiny.AddAdapter(*image);
  Request request = NewRequest(stack.get(), 2, 5);
  request.sampling.temperature = 0.0f;
  request.stopping.max_tokens = 10;
  std::vector<TokenId> tokens = request.prompt;
  for (const OutputToken& token : stack->Run(request).tokens) {
    const std::vector<float> logits = tiny.AllLogits(tokens, 64, number);
    const auto last = logits.end() - tiny.spec().vocab_size;
    EXPECT_EQ(token.token, std::max_element(last, logits.end()) - last);
    tokens.push_back(token.token);
  }
  EXPECT_EQ(tokens.size(), request.prompt.size() + 10);
}

// Requests run together, in a pool that holds all adapters and in a pool with few pages for
// adapters.
TEST_P(AdaptersTest, MixedBatchesAndTightPoolsDoNotShow) {
  std::vector<Generated> alone;
  {
    const auto stack = Start(Options());
    for (uint32_t i = 0; i < 24; ++i) {
      alone.push_back(stack->Run(NewRequest(stack.get(), static_cast<int>(i % 6), i)));
      EXPECT_EQ(alone.back().reason, FinishReason::kLength);
    }
  }
  struct Memory {
    int64_t num_slabs;
    int64_t host_bytes;
  };
  const int64_t plenty = int64_t{1} << 30;
  for (const Memory memory : {Memory{512, plenty}, Memory{24, plenty}, Memory{24, 0}}) {
    RealStackOptions options = Options();
    options.num_slabs = memory.num_slabs;
    options.engine.adapter_host_bytes = memory.host_bytes;
    const auto stack = Start(options);
    for (int round = 0; round < 2; ++round) {
      std::vector<int> numbers;
      for (uint32_t i = 0; i < 24; ++i) {
        numbers.push_back(stack->Submit(NewRequest(stack.get(), static_cast<int>(i % 6), i)));
      }
      stack->RunAll();
      for (size_t i = 0; i < numbers.size(); ++i) {
        EXPECT_TRUE(SameResults(stack->result(numbers[i]), alone[i]))
            << memory.num_slabs << " slabs, request " << i << " "
            << stack->result(numbers[i]).status;
      }
    }
    if (memory.num_slabs == 24) {
      EXPECT_GT(stack->stats().adapter_evictions.value(), 0);
    } else {
      EXPECT_EQ(stack->stats().adapter_loads.value(), 5);
      EXPECT_EQ(stack->stats().adapter_evictions.value(), 0);
    }
  }
}

// With host memory for 8 images, 24 adapters that requests wait for are each read once.
TEST_P(AdaptersTest, WaitingAdaptersAreReadOnce) {
  RealStackOptions options = Options();
  {
    const auto probe = Start(options);
    probe->Run(NewRequest(probe.get(), 3, 1));
    options.engine.adapter_host_bytes = 8 * probe->adapters().List().back().bytes;
  }
  options.num_slabs = 2048;
  const auto stack = Start(options);
  constexpr int kDistinct = 24;
  for (int i = 0; i < kDistinct; ++i) {
    Request request = NewRequest(stack.get(), 0, static_cast<uint32_t>(i));
    const float weight = 0.125f * static_cast<float>(i + 1);
    request.adapter =
        *stack->adapters().Resolve(0, {{"plain", "", weight}, {"patterns", "", 1.0f}});
    stack->Submit(request);
  }
  stack->RunAll();
  for (int i = 0; i < kDistinct; ++i) EXPECT_EQ(stack->result(i).reason, FinishReason::kLength);
  EXPECT_EQ(stack->stats().adapter_loads.value(), kDistinct);
}

TEST_P(AdaptersTest, PrefixesOfAdaptersAreTheirOwn) {
  const auto stack = Start(Options());
  Request request = NewRequest(stack.get(), 0, 3);
  request.prompt.assign(40, 7);
  EXPECT_EQ(stack->Run(request).usage.cached_prompt_tokens, 0);
  EXPECT_EQ(stack->Run(request).usage.cached_prompt_tokens, 32);
  for (const int recipe : {1, 2, 3, 4}) {
    request.adapter = *stack->adapters().Resolve(0, Recipe(recipe));
    EXPECT_EQ(stack->Run(request).usage.cached_prompt_tokens, 0) << recipe;
    EXPECT_EQ(stack->Run(request).usage.cached_prompt_tokens, 32) << recipe;
  }
}

TEST_P(AdaptersTest, ChangedFilesAreANewVersion) {
  const auto stack = Start(Options());
  const std::string path = Copy("plain");
  ASSERT_TRUE(stack->adapters().Register({{"mine", "", 0, path}}).ok());
  Request request = NewRequest(stack.get(), 0, 3);
  request.adapter = *stack->adapters().Resolve(0, {{"mine", "", {}}});
  const Generated first = stack->Run(request);
  EXPECT_EQ(first.reason, FinishReason::kLength);
  // After the files change, the adapter's name resolves to a new version of the new content.
  std::filesystem::remove_all(path);
  std::filesystem::copy(kAdapters + "patterns", path);
  stack->adapters().CheckFilesNow();
  const ResolvedAdapter changed = *stack->adapters().Resolve(0, {{"mine", "", {}}});
  EXPECT_NE(changed.id, request.adapter.id);
  EXPECT_NE(changed.key, request.adapter.key);
  request.adapter = changed;
  const Generated second = stack->Run(request);
  EXPECT_EQ(second.usage.cached_prompt_tokens, 0);
  request.adapter = *stack->adapters().Resolve(0, {{"patterns", "", {}}});
  EXPECT_TRUE(SameResults(second, stack->Run(request)));
}

// Requests that come after the files are gone or half-written get the adapter in memory.
TEST_P(AdaptersTest, WhatIsInMemoryServesWithoutItsFiles) {
  const auto stack = Start(Options());
  const std::string path = Copy("plain");
  ASSERT_TRUE(stack->adapters().Register({{"mine", "", 0, path}}).ok());
  Request request = NewRequest(stack.get(), 0, 3);
  request.bypass_prefix = true;
  request.adapter = *stack->adapters().Resolve(0, {{"mine", "", {}}});
  const Generated want = stack->Run(request);
  EXPECT_EQ(want.reason, FinishReason::kLength);
  const std::vector<std::function<void()>> damages = {
      [&] { std::filesystem::resize_file(path + "/adapter_model.safetensors", 100); },
      [&] { std::filesystem::remove_all(path); }};
  for (const auto& damage : damages) {
    damage();
    stack->adapters().CheckFilesNow();
    EXPECT_NE(stack->adapters().List()[2].files, AdapterFilesState::kPresent);
    const auto still = stack->adapters().Resolve(0, {{"mine", "", {}}});
    ASSERT_TRUE(still.ok()) << still.status();
    request.adapter = *still;
    EXPECT_TRUE(SameResults(want, stack->Run(request)));
  }
  EXPECT_EQ(stack->stats().adapter_loads.value(), 1);
}

// Running and waiting requests of an adapter finish after it was unregistered and its folder was
// deleted; then its pages are free, although it was pinned.
TEST_P(AdaptersTest, WhatIsUnregisteredLeavesWhenItsRequestsHaveFinished) {
  RealStackOptions options = Options();
  options.engine.max_num_seqs = 1;
  const auto stack = Start(options);
  const std::string path = Copy("plain");
  ASSERT_TRUE(stack->adapters().Register({{"mine", "", 0, path}}).ok());
  Request request = NewRequest(stack.get(), 0, 3);
  request.stopping.max_tokens = 8;
  request.adapter = *stack->adapters().Resolve(0, {{"mine", "", {}}});
  stack->core().LoadAdapter(request.adapter.id, /*pin=*/true, {[](const absl::Status&) {}, {}});
  stack->RunAll();
  const int running = stack->Submit(request);
  const int waiting = stack->Submit(request);
  stack->RunOnce();
  const auto retired = stack->adapters().Unregister("mine");
  ASSERT_TRUE(retired.ok());
  for (const ResolvedAdapter& version : *retired) {
    stack->core().UnloadAdapter(version.id, /*unpin=*/true);
  }
  std::filesystem::remove_all(path);
  stack->RunAll();
  EXPECT_EQ(stack->result(running).reason, FinishReason::kLength);
  EXPECT_EQ(stack->result(waiting).reason, FinishReason::kLength);
  EXPECT_EQ(stack->stats().adapter_loads.value(), 1);
  EXPECT_EQ(stack->stats().slabs_adapter.value(), 0);
}

// A file that is truncated, removed or replaced before its load fails only its adapter's requests.
TEST_P(AdaptersTest, AFailedLoadFailsOnlyWhatNeedsIt) {
  const std::string path = Copy("plain");
  const std::string file = path + "/adapter_model.safetensors";
  const std::vector<std::function<void()>> damages = {
      [&] { std::filesystem::resize_file(file, 100); }, [&] { std::filesystem::remove(file); },
      [&] {
        std::filesystem::remove_all(path);
        std::filesystem::copy(kAdapters + "patterns", path);
      }};
  for (size_t damage = 0; damage < damages.size(); ++damage) {
    const auto stack = Start(Options());
    Copy("plain");
    ASSERT_TRUE(stack->adapters().Register({{"mine", "", 0, path}}).ok());
    Request broken = NewRequest(stack.get(), 0, 1);
    broken.sampling.n = 2;
    broken.adapter = *stack->adapters().Resolve(0, {{"mine", "", {}}});
    damages[damage]();
    const int a = stack->Submit(broken);
    const int b = stack->Submit(NewRequest(stack.get(), 1, 2));
    const int c = stack->Submit(NewRequest(stack.get(), 0, 2));
    absl::Status loaded;
    stack->core().LoadAdapter(broken.adapter.id, false, {[&](absl::Status s) { loaded = s; }, {}});
    stack->RunAll();
    EXPECT_EQ(stack->result(a, 0).reason, FinishReason::kError) << damage;
    EXPECT_EQ(stack->result(a, 1).reason, FinishReason::kError) << damage;
    EXPECT_THAT(stack->result(a).status.message(), HasSubstr(path)) << damage;
    EXPECT_EQ(stack->result(b).reason, FinishReason::kLength) << damage;
    EXPECT_EQ(stack->result(c).reason, FinishReason::kLength) << damage;
    EXPECT_FALSE(loaded.ok()) << damage;
  }
}

// A load that finds changed files reports the change to the registry, so the next Resolve gives the
// new version without another check of the disk.
TEST_P(AdaptersTest, ARequestSentAgainGetsTheChangedFiles) {
  const auto stack = Start(Options());
  const std::string path = Copy("plain");
  ASSERT_TRUE(stack->adapters().Register({{"mine", "", 0, path}}).ok());
  Request request = NewRequest(stack.get(), 0, 3);
  request.adapter = *stack->adapters().Resolve(0, {{"mine", "", {}}});
  std::filesystem::remove_all(path);
  std::filesystem::copy(kAdapters + "patterns", path);
  const Generated refused = stack->Run(request);
  EXPECT_EQ(refused.status.code(), absl::StatusCode::kFailedPrecondition) << refused.status;
  EXPECT_THAT(refused.status.message(), HasSubstr("send the request again"));
  request.adapter = *stack->adapters().Resolve(0, {{"mine", "", {}}});
  const Generated got = stack->Run(request);
  request.adapter = *stack->adapters().Resolve(0, {{"patterns", "", {}}});
  EXPECT_TRUE(SameResults(got, stack->Run(request)));
}

TEST_P(AdaptersTest, WhatDoesNotFitFailsWhenNothingElseCanLeave) {
  RealStackOptions options = Options();
  options.num_slabs = 8;
  const auto stack = Start(options);
  Request request = NewRequest(stack.get(), 2, 1);
  request.name = "too big";
  const LogCapture log;
  const int number = stack->Submit(request);
  stack->RunAll();
  EXPECT_EQ(stack->result(number).reason, FinishReason::kError);
  EXPECT_THAT(stack->result(number).status.message(), HasSubstr("--kv-cache-bytes"));
  EXPECT_THAT(log.text(), HasSubstr("[debug] too big ends with an error: RESOURCE_EXHAUSTED"));
}

// A pin is set while its adapter waits for room. A wait ends when its operator has disconnected.
TEST_P(AdaptersTest, WaitsForRoomMayBeGivenUp) {
  RealStackOptions options = Options();
  options.num_slabs = 18;
  options.engine.adapter_host_bytes = 0;
  const auto stack = Start(options);
  Request request = NewRequest(stack.get(), 0, 1);
  request.prompt.assign(150, 3);
  request.stopping.max_tokens = 30;
  const int running = stack->Submit(request);
  stack->RunOnce();
  const AdapterId patterns = stack->adapters().Resolve(0, Recipe(2))->id;
  int num_done = 0;
  bool gone = false;
  stack->core().LoadAdapter(patterns, true,
                            {[&](const absl::Status&) { ++num_done; }, [&] { return gone; }});
  while (stack->RunLoader()) stack->RunOnce();
  const auto listing = [&] { return stack->adapters().List()[1]; };
  EXPECT_EQ(listing().residency, AdapterResidency::kHost);
  EXPECT_TRUE(listing().pinned);
  EXPECT_EQ(num_done, 0);
  gone = true;
  stack->RunAll();
  EXPECT_EQ(num_done, 0);
  EXPECT_EQ(stack->result(running).reason, FinishReason::kLength);
  // No request and no operator wants the adapter, so it stays in host memory.
  EXPECT_EQ(listing().residency, AdapterResidency::kHost);
  stack->core().LoadAdapter(patterns, false, {[&](const absl::Status&) { ++num_done; }, {}});
  stack->RunAll();
  EXPECT_EQ(num_done, 1);
  EXPECT_EQ(listing().residency, AdapterResidency::kPool);
}

TEST_P(AdaptersTest, OperatorsLoadPinAndUnload) {
  RealStackOptions options = Options();
  options.num_slabs = 40;
  const auto stack = Start(options);
  const AdapterId plain = stack->adapters().Resolve(0, Recipe(1))->id;
  bool loaded = false;
  stack->core().LoadAdapter(plain, true, {[&](const absl::Status& s) { loaded = s.ok(); }, {}});
  stack->RunAll();
  EXPECT_TRUE(loaded);
  const auto listing = [&] { return stack->adapters().List()[0]; };
  EXPECT_EQ(listing().residency, AdapterResidency::kPool);
  EXPECT_TRUE(listing().pinned);
  EXPECT_EQ(listing().rank, 3);
  EXPECT_GT(listing().bytes, 0);
  // A pinned adapter stays in the pool while other adapters compete for pages.
  for (uint32_t i = 0; i < 12; ++i) {
    stack->Submit(NewRequest(stack.get(), 2 + static_cast<int>(i % 4), i));
  }
  stack->RunAll();
  EXPECT_EQ(listing().residency, AdapterResidency::kPool);
  // An unload takes effect only after the running request has finished.
  Request request = NewRequest(stack.get(), 1, 1);
  request.stopping.max_tokens = 6;
  const int number = stack->Submit(request);
  stack->RunOnce();
  stack->core().UnloadAdapter(plain, /*unpin=*/true);
  EXPECT_EQ(listing().residency, AdapterResidency::kPool);
  stack->RunAll();
  EXPECT_EQ(stack->result(number).reason, FinishReason::kLength);
  EXPECT_EQ(listing().residency, AdapterResidency::kDisk);
  EXPECT_FALSE(listing().pinned);
}

// A pinned adapter that waits for room keeps its image even if the bound of host memory is 0.
TEST_P(AdaptersTest, APinSurvivesInHostMemory) {
  RealStackOptions options = Options();
  options.num_slabs = 18;
  options.engine.adapter_host_bytes = 0;
  const auto stack = Start(options);
  Request request = NewRequest(stack.get(), 0, 1);
  request.prompt.assign(150, 3);
  request.stopping.max_tokens = 30;
  stack->Submit(request);
  stack->RunOnce();
  const auto load = [&](int recipe, bool pin) {
    const AdapterId id = stack->adapters().Resolve(0, Recipe(recipe))->id;
    const auto gone = std::make_shared<bool>(false);  // the engine may read it after this call
    stack->core().LoadAdapter(id, pin, {[](const absl::Status&) {}, [gone] { return *gone; }, {}});
    stack->RunOnce();
    *gone = true;
    stack->RunOnce();
    EXPECT_TRUE(stack->RunLoader());
  };
  load(2, true);
  load(1, false);
  const AdapterListing pinned = stack->adapters().List()[1];
  EXPECT_EQ(pinned.residency, AdapterResidency::kHost);
  EXPECT_TRUE(pinned.pinned);
  stack->RunAll();
}

// The last command wins: an adapter that was to be unloaded and is then pinned stays.
TEST_P(AdaptersTest, APinTakesBackAnUnload) {
  const auto stack = Start(Options());
  const int number = stack->Submit(NewRequest(stack.get(), 1, 1));
  const auto listing = [&] { return stack->adapters().List()[0]; };
  while (listing().num_running == 0) {
    stack->RunOnce();
    stack->RunLoader();
  }
  const AdapterId plain = stack->adapters().Resolve(0, Recipe(1))->id;
  stack->core().UnloadAdapter(plain, /*unpin=*/true);
  stack->core().LoadAdapter(plain, true, {[](const absl::Status&) {}, {}, {}});
  stack->RunAll();
  EXPECT_EQ(stack->result(number).reason, FinishReason::kLength);
  EXPECT_EQ(listing().residency, AdapterResidency::kPool);
  EXPECT_TRUE(listing().pinned);
  EXPECT_EQ(stack->stats().adapter_loads.value(), 1);
  EXPECT_EQ(stack->stats().adapter_evictions.value(), 0);
}

TEST_P(AdaptersTest, AnUnloadDuringAReadComesAfterIt) {
  const auto stack = Start(Options());
  const AdapterId plain = stack->adapters().Resolve(0, Recipe(1))->id;
  bool gone = false;
  stack->core().LoadAdapter(plain, false, {[](const absl::Status&) {}, [&] { return gone; }, {}});
  stack->RunOnce();
  gone = true;
  stack->core().UnloadAdapter(plain, /*unpin=*/true);
  EXPECT_TRUE(stack->RunLoader());
  stack->RunAll();
  EXPECT_EQ(stack->stats().adapter_loads.value(), 1);
  EXPECT_EQ(stack->adapters().List()[0].residency, AdapterResidency::kDisk);
}

// The less used of two idle adapters leaves the pool first, although it was used last.
TEST_P(AdaptersTest, TheLessUsedAdapterLeavesFirst) {
  RealStackOptions options = Options();
  options.num_slabs = 40;
  options.engine.adapter_host_bytes = 0;
  const auto stack = Start(options);
  const std::string path = Copy("plain");
  ASSERT_TRUE(stack->adapters().Register({{"twin", "", 0, path}}).ok());
  for (uint32_t i = 0; i < 8; ++i) stack->Run(NewRequest(stack.get(), 1, i));
  Request request = NewRequest(stack.get(), 0, 9);
  request.adapter = *stack->adapters().Resolve(0, {{"twin", "", {}}});
  stack->Run(request);
  const auto residency = [&](size_t i) { return stack->adapters().List()[i].residency; };
  EXPECT_EQ(residency(0), AdapterResidency::kPool);
  EXPECT_EQ(residency(2), AdapterResidency::kPool);
  request.adapter = {};
  request.stopping.max_tokens = 1;
  // The prompts are short, so that no step needs the pages of both adapters.
  request.prompt.assign(20, 5);
  while (stack->stats().adapter_evictions.value() == 0) {
    stack->Run(request);
    request.prompt[0] = (request.prompt[0] + 1) % 100;
    request.prompt[1] += request.prompt[0] == 0 ? 1 : 0;
  }
  EXPECT_EQ(residency(0), AdapterResidency::kPool);
  EXPECT_EQ(residency(2), AdapterResidency::kDisk);
}

TEST_P(AdaptersTest, BlendsAreListedWhileInMemory) {
  const auto stack = Start(Options());
  EXPECT_EQ(stack->Run(NewRequest(stack.get(), 3, 1)).reason, FinishReason::kLength);
  stack->adapters().Resolve(0, Recipe(4)).value();  // resolved but never loaded
  std::vector<AdapterListing> list = stack->adapters().List();
  ASSERT_EQ(list.size(), 3);
  EXPECT_EQ(list[0].residency, AdapterResidency::kDisk);
  EXPECT_EQ(list[2].name, "plain*0.75+patterns*-0.5");
  EXPECT_EQ(list[2].residency, AdapterResidency::kPool);
  EXPECT_GT(list[2].rank, 3);
  EXPECT_GT(list[2].bytes, 0);
  stack->core().UnloadAdapter(stack->adapters().FindBlend(list[2].name).id, /*unpin=*/true);
  EXPECT_EQ(stack->adapters().List().size(), 2);
}

// The registry forgets a blend that has left memory; the blend's prefixes stay in the cache.
TEST_P(AdaptersTest, BlendsLiveAsLongAsTheyAreInMemory) {
  RealStackOptions options = Options();
  options.num_slabs = 48;
  options.engine.adapter_host_bytes = 0;
  const auto stack = Start(options);
  const auto in_pool = [&] {
    const std::vector<AdapterListing> list = stack->adapters().List();
    return absl::c_count_if(
        list, [](const auto& each) { return each.residency == AdapterResidency::kPool; });
  };
  for (int recipe = 3; recipe < 30; ++recipe) {
    const Request request = NewRequest(stack.get(), recipe, static_cast<uint32_t>(recipe));
    EXPECT_EQ(stack->Run(request).reason, FinishReason::kLength);
    EXPECT_EQ(stack->adapters().num_versions(), in_pool() + (in_pool() == 0 ? 1 : 0));
  }
  EXPECT_GT(stack->stats().adapter_evictions.value(), 0);
  EXPECT_GT(in_pool(), 0);
  const AdapterListing last = stack->adapters().List().back();
  Request request = NewRequest(stack.get(), 29, 3);
  request.prompt.assign(40, 7);
  stack->Run(request);
  const AdapterId id = std::exchange(request.adapter, {}).id;
  stack->core().UnloadAdapter(id, /*unpin=*/true);
  EXPECT_EQ(stack->adapters().FindBlend(last.name).id, kNoAdapter);
  request.adapter = *stack->adapters().Resolve(0, Recipe(29));
  EXPECT_NE(request.adapter.id, id);
  EXPECT_EQ(stack->Run(request).usage.cached_prompt_tokens, 32);
}

TEST_P(AdaptersTest, RecompressedBlendsAreVersionsOfTheirOwn) {
  const auto stack = Start(Options());
  Request request = NewRequest(stack.get(), 3, 3);
  request.prompt.assign(40, 7);
  request.sampling.temperature = 0.0f;
  const ResolvedAdapter exact = request.adapter;
  const Generated want = stack->Run(request);
  EXPECT_EQ(want.reason, FinishReason::kLength);
  // A blend_rank above the sum of the ranks gives the exact results, but shares no prefixes.
  const ResolvedAdapter whole = stack->adapters().Resolve(0, Recipe(3), 64).value();
  EXPECT_NE(whole.id, exact.id);
  EXPECT_NE(whole.key, exact.key);
  request.adapter = whole;
  const Generated same = stack->Run(request);
  EXPECT_EQ(same.usage.cached_prompt_tokens, 0);
  EXPECT_TRUE(SameResults(same, want));
  // A blend_rank below the sum of the ranks gives different results and a smaller adapter.
  request.adapter = stack->adapters().Resolve(0, Recipe(3), 2).value();
  const Generated less = stack->Run(request);
  EXPECT_EQ(less.usage.cached_prompt_tokens, 0);
  EXPECT_EQ(less.reason, FinishReason::kLength);
  EXPECT_FALSE(SameResults(less, want));
  const std::vector<AdapterListing> list = stack->adapters().List();
  ASSERT_EQ(list.size(), 5);
  EXPECT_EQ(list[3].name, "plain*0.75+patterns*-0.5:r64");
  EXPECT_EQ(list[3].rank, list[2].rank);
  EXPECT_EQ(list[4].name, "plain*0.75+patterns*-0.5:r2");
  EXPECT_EQ(list[4].rank, 2);
  EXPECT_LE(list[4].bytes, list[2].bytes);
}

// After random commands, a request that finishes by length has the tokens that it has alone.
class AdaptersRandomTest : public ::testing::TestWithParam<int64_t> {};  // bound of host bytes

INSTANTIATE_TEST_SUITE_P(HostBytes, AdaptersRandomTest, ::testing::Values(0, int64_t{1} << 30));

TEST_P(AdaptersRandomTest, VerbsDoNotShow) {
  RealStackOptions options;
  options.model_dirs = {GoldenModelDir(kModel)};
  options.backend = AllBackends().back();
  options.bf16 = true;
  options.engine.max_num_seqs = 4;
  options.engine.max_num_batched_tokens = 24;
  options.engine.deployment_secret = "test";
  class Access : public AdaptersTest {
   public:
    using AdaptersTest::NewRequest;
    using AdaptersTest::Recipe;
    using AdaptersTest::Start;
  };
  const auto reference = Access::Start(options);
  options.num_slabs = 28;
  options.engine.adapter_host_bytes = GetParam();
  const auto stack = Access::Start(options);
  std::mt19937 rng(4);
  std::vector<std::pair<int, std::pair<int, uint32_t>>> submitted;
  for (int64_t round = 0; round < kRandomRounds; ++round) {
    const int recipe = static_cast<int>(rng() % 6);
    const ResolvedAdapter adapter = stack->adapters().Resolve(0, Access::Recipe(recipe)).value();
    const AdapterId id = adapter.id;
    switch (rng() % 10) {
      case 0:
      case 1: {
        const uint32_t seed = rng() % 40;
        submitted.emplace_back(stack->Submit(Access::NewRequest(stack.get(), recipe, seed)),
                               std::make_pair(recipe, seed));
        break;
      }
      case 2:
        if (!submitted.empty() && rng() % 3 == 0) {
          const int victim = submitted[rng() % submitted.size()].first;
          stack->core().Cancel(stack->engine_id(victim), -1, CancelReason::kClient);
        }
        break;
      case 3:
        if (id != kNoAdapter) stack->core().UnloadAdapter(id, /*unpin=*/true);
        break;
      case 4:
        if (id != kNoAdapter) {
          stack->core().LoadAdapter(id, rng() % 8 == 0, {[](absl::Status) {}, {}, adapter.hold});
        }
        break;
      case 5:
        if (id != kNoAdapter) stack->core().UnpinAdapter(id);
        break;
      case 6:
        stack->RunLoader();
        break;
      default:
        stack->RunOnce();
    }
    stack->core().CheckInvariants();
  }
  for (int recipe = 1; recipe < 6; ++recipe) {
    stack->core().UnpinAdapter(stack->adapters().Resolve(0, Access::Recipe(recipe))->id);
  }
  stack->RunAll();
  int num_whole = 0;
  for (const auto& [number, made] : submitted) {
    const Generated& got = stack->result(number);
    ASSERT_EQ(got.num_finished, 1) << "request " << number;
    if (got.reason != FinishReason::kLength) continue;
    ++num_whole;
    const Generated& want =
        reference->Run(Access::NewRequest(reference.get(), made.first, made.second));
    EXPECT_TRUE(SameResults(got, want)) << "request " << number;
  }
  EXPECT_GT(num_whole, kRandomRounds / 20);
}

}  // namespace
}  // namespace tessera::testing
