// Tests of residency: which cached prefixes and adapters leave the pool, how needs are loaded, and
// the waits of operators. The adapter loader reads and copies when a test tells it to.
#include "scheduler/residency/residency.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "scheduler/residency/adapters/adapter_store.h"
#include "scheduler/residency/operator_loads.h"
#include "tests/lib/core_stack.h"

namespace tessera::testing {
namespace {

constexpr double kCheap = 1e-6;  // microseconds to recompute a slab
constexpr double kPrecious = 1e9;
constexpr int64_t kHostBytes = 1 << 20;

class ResidencyTest : public ::testing::Test {
 protected:
  // Starts models whose pages have `slabs_per_page[m]` slabs. Adapters belong to the first model.
  void Start(int64_t num_slabs, const std::vector<int32_t>& slabs_per_page,
             const std::vector<int32_t>& adapter_pages, int64_t host_bytes = kHostBytes) {
    AdapterStoreOptions options;
    options.host_bytes = host_bytes;
    Start(num_slabs, slabs_per_page, adapter_pages, options);
  }
  void Start(int64_t num_slabs, const std::vector<int32_t>& slabs_per_page,
             const std::vector<int32_t>& adapter_pages, const AdapterStoreOptions& options) {
    const int32_t largest = *std::max_element(slabs_per_page.begin(), slabs_per_page.end());
    FakeRunnerOptions runner;
    for (const int32_t slabs : slabs_per_page) {
      EngineModel model = FakeModel("m" + std::to_string(slabs), {0}, 4 * slabs, 256);
      model.layout.slab_bytes = model.layout.groups[0].page_bytes() / slabs;
      model.layout.slabs_per_page = slabs;
      runner.models.push_back(model);
    }
    runner.num_slabs = num_slabs + largest;
    kv_ = NewKvManager(runner.num_slabs, runner.models[0].layout.slab_bytes, largest);
    for (const EngineModel& model : runner.models) kv_->AddModel(model.layout);
    runner_ = std::make_unique<FakeRunner>(runner);
    adapters_ = std::make_unique<FakeAdapters>(runner.models[0], adapter_pages);
    AdapterLoaderEvents events;
    events.on_read = [this](AdapterId id, absl::StatusOr<AdapterImage> image, int64_t read_us) {
      store_->OnRead(id, std::move(image), read_us);
    };
    events.on_copied = [this](AdapterId id) { store_->OnCopied(id); };
    loader_ = std::make_unique<FakeAdapterLoader>(runner_.get(), std::move(events));
    store_ = std::make_unique<AdapterStore>(options, adapters_->registry(), kv_.get(),
                                            loader_.get(), &clock_);
    residency_ = std::make_unique<Residency>(kv_.get(), store_.get(), runner.models.size());
  }

  NeedId Id(size_t adapter) const { return adapters_->id(adapter); }
  AdapterStatus& Status(size_t adapter) { return *adapters_->registry()->status(Id(adapter)); }
  AdapterResidency Residence(size_t adapter) { return Status(adapter).residency; }
  NeedState Want(size_t adapter, int64_t reserve_slabs = 0, bool alone = false) {
    const NeedState state = residency_->Want(Id(adapter), reserve_slabs, alone);
    store_->CheckInvariants();
    return state;
  }
  void FinishRead() { loader_->FinishRead(adapters_->Image(loader_->next_read())); }
  // Loads an adapter into the pool, where it is idle.
  void Load(size_t adapter) {
    ASSERT_EQ(Want(adapter), NeedState::kLoading);
    FinishRead();
    ASSERT_EQ(Want(adapter), NeedState::kLoading);
    loader_->FinishCopy();
    ASSERT_EQ(Want(adapter), NeedState::kReady);
    residency_->TakeChanges();
  }
  // Adds `num_pages` cached pages of a model.
  void Cache(int32_t model, int num_pages) {
    KvState state;
    state.model = model;
    state.root = {7, static_cast<uint64_t>(model)};
    const std::vector<TokenId> tokens =
        FakePrompt(model, num_pages * kv_->layout(model).page_tokens());
    const auto num_tokens = static_cast<int64_t>(tokens.size());
    kv_->Admit(&state, tokens);
    ASSERT_TRUE(kv_->Grow(&state, num_tokens));
    kv_->Advance(&state, tokens, num_tokens);
    kv_->Release(&state);
  }
  bool MakeRoom(int32_t model, int64_t num_fresh, int64_t num_required) {
    const bool made = residency_->MakeRoom(model, num_fresh, num_required);
    store_->CheckInvariants();
    kv_->CheckInvariants({});
    return made;
  }
  int64_t CachedSlabs() const { return kv_->usage().cached_slabs; }
  std::vector<NeedId> ChangedIds() {
    std::vector<NeedId> ids;
    for (const NeedChange& change : residency_->TakeChanges()) {
      EXPECT_TRUE(change.status.ok()) << change.status;
      ids.push_back(change.id);
    }
    return ids;
  }

  ManualClock clock_;
  std::unique_ptr<KvManager> kv_;
  std::unique_ptr<FakeRunner> runner_;
  std::unique_ptr<FakeAdapters> adapters_;
  std::unique_ptr<FakeAdapterLoader> loader_;
  std::unique_ptr<AdapterStore> store_;
  std::unique_ptr<Residency> residency_;
};

TEST_F(ResidencyTest, CheapPrefixesLeaveBeforeAnAdapter) {
  Start(20, {1}, {4});
  Load(0);
  Cache(0, 8);
  residency_->SetRecomputeUs(0, kCheap);
  EXPECT_EQ(residency_->AvailablePages(0), 20);
  EXPECT_TRUE(MakeRoom(0, 10, 10));
  EXPECT_EQ(CachedSlabs(), 6);
  EXPECT_TRUE(residency_->IsReady(Id(0)));
}

TEST_F(ResidencyTest, ACheapAdapterLeavesBeforePrefixes) {
  Start(20, {1}, {4});
  Load(0);
  Cache(0, 8);
  residency_->SetRecomputeUs(0, kPrecious);
  EXPECT_TRUE(MakeRoom(0, 10, 10));
  EXPECT_EQ(CachedSlabs(), 8);
  EXPECT_FALSE(residency_->IsReady(Id(0)));
  EXPECT_EQ(kv_->FreePages(0), 12);
}

TEST_F(ResidencyTest, TheAdapterThatIsWorthLeastLeavesFirst) {
  Start(20, {1}, {4, 4});
  Load(0);
  Load(1);
  for (int i = 0; i < 50; ++i) {
    residency_->Acquire(Id(0));
    residency_->Release(Id(0));
  }
  Cache(0, 8);
  residency_->SetRecomputeUs(0, kPrecious);
  EXPECT_TRUE(MakeRoom(0, 6, 6));
  EXPECT_TRUE(residency_->IsReady(Id(0))) << "it was used often";
  EXPECT_FALSE(residency_->IsReady(Id(1)));
}

// The adapter that was used last leaves first, because the other one was used more often.
TEST_F(ResidencyTest, OfTwoIdleAdaptersTheLessUsedLeavesFirst) {
  Start(20, {1}, {4, 4});
  Load(0);
  Load(1);
  for (int i = 0; i < 50; ++i) {
    residency_->Acquire(Id(0));
    residency_->Release(Id(0));
  }
  Cache(0, 1);
  residency_->Acquire(Id(1));
  residency_->Release(Id(1));
  Cache(0, 8);
  residency_->SetRecomputeUs(0, kPrecious);
  EXPECT_TRUE(MakeRoom(0, 6, 6));
  EXPECT_TRUE(residency_->IsReady(Id(0)));
  EXPECT_FALSE(residency_->IsReady(Id(1)));
}

TEST_F(ResidencyTest, WhatIsWorthMoreLeavesWhenItMust) {
  Start(20, {1}, {4});
  Load(0);
  Cache(0, 8);
  residency_->SetRecomputeUs(0, kCheap);
  EXPECT_TRUE(MakeRoom(0, 17, 17));
  EXPECT_FALSE(residency_->IsReady(Id(0)));
  EXPECT_GE(kv_->FreePages(0), 17);
}

// Cached pages count as available for `num_required`, so MakeRoom does not free them. MakeRoom
// evicts the idle adapter only when free and cached pages are fewer than `num_required`.
TEST_F(ResidencyTest, OnlyFreshPagesAreFreed) {
  Start(20, {1}, {4});
  Load(0);
  Cache(0, 8);
  residency_->SetRecomputeUs(0, kCheap);
  EXPECT_TRUE(MakeRoom(0, 3, 16));
  EXPECT_EQ(CachedSlabs(), 8);
  EXPECT_TRUE(residency_->IsReady(Id(0)));
  EXPECT_TRUE(MakeRoom(0, 3, 18));
  EXPECT_EQ(CachedSlabs(), 8);
  EXPECT_FALSE(residency_->IsReady(Id(0)));
}

TEST_F(ResidencyTest, AllStaysWhenThereCannotBeRoom) {
  Start(20, {1}, {4, 2});
  Load(0);
  Load(1);
  Cache(0, 8);
  residency_->Acquire(Id(1));
  for (const double worth : {kCheap, kPrecious}) {
    residency_->SetRecomputeUs(0, worth);
    EXPECT_FALSE(MakeRoom(0, 19, 19)) << "a running need stays";
    EXPECT_FALSE(MakeRoom(0, 1, 40));
    EXPECT_TRUE(residency_->IsReady(Id(0)));
    EXPECT_EQ(CachedSlabs(), 8);
  }
  EXPECT_TRUE(MakeRoom(0, 18, 18));
  residency_->Release(Id(1));
}

TEST_F(ResidencyTest, IdleNeedsInSmallerPagesAreNotCountedButGiveWay) {
  Start(20, {1, 2}, {6});
  Load(0);
  EXPECT_EQ(kv_->AvailablePages(1), 7);
  EXPECT_EQ(residency_->AvailablePages(1), 7) << "they may not free whole pages";
  EXPECT_EQ(residency_->IdlePages(Id(0), 1), 0);
  EXPECT_FALSE(MakeRoom(1, 11, 11)) << "the pool has 10";
  EXPECT_TRUE(residency_->IsReady(Id(0)));
  EXPECT_TRUE(MakeRoom(1, 10, 10));
  EXPECT_FALSE(residency_->IsReady(Id(0)));
}

// Two slabs are free: enough for two pages of the adapter's model, and for one page of model 1.
TEST_F(ResidencyTest, FreePagesAreCountedInPagesOfTheModelThatNeedsThem) {
  Start(12, {1, 2}, {4});
  Load(0);
  Cache(1, 3);
  residency_->SetRecomputeUs(1, kPrecious);
  ASSERT_EQ(kv_->usage().free_slabs, 2);
  EXPECT_TRUE(MakeRoom(1, 2, 2));
  EXPECT_FALSE(residency_->IsReady(Id(0))) << "the adapter is worth less than the prefixes";
  EXPECT_EQ(CachedSlabs(), 6);
}

TEST_F(ResidencyTest, IdleNeedsInLargerPagesAreCountedInTheSmaller) {
  Start(20, {2, 1}, {3});
  Load(0);
  Cache(1, 4);
  residency_->SetRecomputeUs(1, kPrecious);
  EXPECT_EQ(kv_->AvailablePages(1), 14);
  EXPECT_EQ(residency_->AvailablePages(1), 20);
  EXPECT_EQ(residency_->IdlePages(Id(0), 1), 6);
  EXPECT_FALSE(MakeRoom(1, 21, 21));
  EXPECT_TRUE(residency_->IsReady(Id(0)));
  EXPECT_TRUE(MakeRoom(1, 16, 16));
  EXPECT_FALSE(residency_->IsReady(Id(0)));
  EXPECT_EQ(CachedSlabs(), 4);
}

TEST_F(ResidencyTest, ANeedComesByItsStates) {
  Start(20, {1}, {4});
  EXPECT_TRUE(residency_->IsReady(kNoNeed));
  EXPECT_EQ(residency_->Want(kNoNeed, 100, false), NeedState::kReady);
  EXPECT_FALSE(residency_->IsReady(Id(0)));
  EXPECT_EQ(Want(0), NeedState::kLoading);
  EXPECT_EQ(Want(0), NeedState::kLoading) << "it is being read";
  EXPECT_EQ(residency_->PagesToPlace(Id(0)), 0);
  FinishRead();
  EXPECT_FALSE(loader_->is_reading()) << "it is read once";
  EXPECT_EQ(residency_->PagesToPlace(Id(0)), 4);
  EXPECT_EQ(Want(0, 17), NeedState::kNoRoom) << "17 slabs are for others";
  EXPECT_EQ(residency_->PagesToPlace(Id(0)), 4);
  EXPECT_EQ(Want(0, 16), NeedState::kLoading);
  EXPECT_EQ(residency_->PagesToPlace(Id(0)), 0);
  EXPECT_FALSE(residency_->IsReady(Id(0)));
  loader_->FinishCopy();
  EXPECT_TRUE(residency_->IsReady(Id(0)));
  EXPECT_EQ(Want(0, 100), NeedState::kReady);
  EXPECT_EQ(residency_->slabs(Id(0)), 4);
}

TEST_F(ResidencyTest, TooManyReadsAreBusy) {
  Start(40, {1}, std::vector<int32_t>(10, 1));
  for (size_t i = 0; i < 8; ++i) EXPECT_EQ(Want(i), NeedState::kLoading);
  EXPECT_EQ(Want(8), NeedState::kBusy);
  FinishRead();
  EXPECT_EQ(Want(8), NeedState::kLoading);
  EXPECT_EQ(Want(9), NeedState::kBusy);
}

// An adapter replaces an idle adapter in the pool, whose image stays in host memory.
TEST_F(ResidencyTest, ANeedMakesRoomForItself) {
  Start(6, {1}, {4, 5});
  Load(0);
  EXPECT_EQ(Want(1), NeedState::kLoading);
  FinishRead();
  residency_->Acquire(Id(0));
  EXPECT_EQ(Want(1), NeedState::kNoRoom) << "it runs";
  residency_->Release(Id(0));
  residency_->TakeChanges();
  EXPECT_EQ(Want(1), NeedState::kLoading);
  EXPECT_EQ(ChangedIds(), std::vector<NeedId>({Id(0)})) << "whoever waits for it asks again";
  loader_->FinishCopy();
  EXPECT_TRUE(residency_->IsReady(Id(1)));
  EXPECT_EQ(residency_->PagesToPlace(Id(0)), 4);
}

TEST_F(ResidencyTest, WhatWillNeverFitFailsWhenNothingRuns) {
  Start(6, {1}, {9});
  EXPECT_EQ(Want(0), NeedState::kLoading);
  FinishRead();
  residency_->TakeChanges();
  EXPECT_EQ(Want(0), NeedState::kNoRoom);
  EXPECT_TRUE(residency_->TakeChanges().empty());
  EXPECT_EQ(Want(0, 0, /*alone=*/true), NeedState::kLoading);
  bool failed = false;
  for (const NeedChange& change : residency_->TakeChanges()) {
    EXPECT_EQ(change.id, Id(0));
    failed |= absl::IsResourceExhausted(change.status);
  }
  EXPECT_TRUE(failed);
}

TEST_F(ResidencyTest, ChangesAreToldOnce) {
  Start(20, {1}, {4}, /*host_bytes=*/0);
  Want(0);
  EXPECT_TRUE(residency_->TakeChanges().empty()) << "asking is none";
  FinishRead();
  EXPECT_EQ(ChangedIds(), std::vector<NeedId>({Id(0)})) << "read";
  Want(0);
  EXPECT_TRUE(residency_->TakeChanges().empty());
  loader_->FinishCopy();
  EXPECT_EQ(ChangedIds(), std::vector<NeedId>({Id(0)})) << "copied";
  EXPECT_TRUE(residency_->TakeChanges().empty());
  EXPECT_TRUE(MakeRoom(0, 20, 20));
  const std::vector<NeedId> evicted = ChangedIds();
  EXPECT_FALSE(evicted.empty()) << "evicted, and forgotten for lack of host memory";
  for (const NeedId id : evicted) EXPECT_EQ(id, Id(0));
  EXPECT_TRUE(residency_->TakeChanges().empty());
  Want(0);
  loader_->FinishRead(absl::FailedPreconditionError("its files changed"));
  const std::vector<NeedChange> failed = residency_->TakeChanges();
  ASSERT_EQ(failed.size(), 1u);
  EXPECT_EQ(failed[0].status.message(), "its files changed");
}

TEST_F(ResidencyTest, WhatIsUnloadedWhileItRunsIsNotReadyAndLeavesAfterwards) {
  Start(20, {1}, {4});
  Load(0);
  residency_->Acquire(Id(0));
  store_->Unload(Id(0), /*unpin=*/false);
  EXPECT_FALSE(residency_->IsReady(Id(0)));
  EXPECT_EQ(Want(0), NeedState::kLoading);
  EXPECT_TRUE(residency_->TakeChanges().empty());
  residency_->Release(Id(0));
  EXPECT_FALSE(ChangedIds().empty()) << "whoever waits for it asks again";
  EXPECT_EQ(kv_->usage().adapter_slabs, 0);
  EXPECT_EQ(Want(0), NeedState::kLoading);
  EXPECT_TRUE(loader_->is_reading());
}

TEST_F(ResidencyTest, WhatIsUnloadedWhileItIsReadIsGoneAfterTheRead) {
  Start(20, {1}, {4});
  EXPECT_EQ(Want(0), NeedState::kLoading);
  store_->Unload(Id(0), /*unpin=*/false);
  FinishRead();
  store_->CheckInvariants();
  EXPECT_EQ(Residence(0), AdapterResidency::kDisk);
  EXPECT_EQ(Want(0), NeedState::kLoading);
  EXPECT_TRUE(loader_->is_reading()) << "no image was kept";
}

TEST_F(ResidencyTest, AReadThatTakesTooLongFails) {
  Start(20, {1}, {4});
  EXPECT_EQ(store_->NextReadLimitUs(), -1);
  EXPECT_EQ(Want(0), NeedState::kLoading);
  EXPECT_EQ(store_->NextReadLimitUs(), 60'000'000);
  clock_.Advance(59'999'999);
  store_->FailLateReads();
  EXPECT_TRUE(residency_->TakeChanges().empty());
  clock_.Advance(1);
  store_->FailLateReads();
  const auto changes = residency_->TakeChanges();
  ASSERT_EQ(changes.size(), 1u);
  EXPECT_EQ(changes[0].id, Id(0));
  EXPECT_TRUE(absl::IsUnavailable(changes[0].status)) << changes[0].status;
  EXPECT_EQ(store_->NextReadLimitUs(), -1);
  FinishRead();
  EXPECT_TRUE(residency_->TakeChanges().empty()) << "nobody waits for it";
  EXPECT_EQ(Residence(0), AdapterResidency::kDisk);
  EXPECT_EQ(Want(0), NeedState::kLoading);
  EXPECT_TRUE(loader_->is_reading());
}

TEST_F(ResidencyTest, ANewDemandWaitsForTheReadThatStillRuns) {
  Start(20, {1}, {4, 4});
  EXPECT_EQ(Want(0), NeedState::kLoading);
  clock_.Advance(60'000'000);
  store_->FailLateReads();
  residency_->TakeChanges();
  EXPECT_EQ(Want(0), NeedState::kLoading);
  EXPECT_EQ(store_->NextReadLimitUs(), 120'000'000);
  EXPECT_EQ(Want(1), NeedState::kLoading);
  FinishRead();
  EXPECT_EQ(loader_->next_read(), Id(1)) << "the first was read once";
  EXPECT_EQ(ChangedIds(), std::vector<NeedId>{Id(0)});
  EXPECT_EQ(Want(0), NeedState::kLoading);
  loader_->FinishCopy();
  EXPECT_EQ(Want(0), NeedState::kReady);
}

TEST_F(ResidencyTest, WhatIsPinnedWhileItIsUnloadedStays) {
  Start(20, {1}, {4});
  Load(0);
  residency_->Acquire(Id(0));
  store_->Unload(Id(0), /*unpin=*/false);
  EXPECT_FALSE(residency_->IsReady(Id(0)));
  store_->Pin(Id(0));
  EXPECT_TRUE(residency_->IsReady(Id(0)));
  EXPECT_FALSE(ChangedIds().empty()) << "whoever waits for it asks again";
  residency_->Release(Id(0));
  EXPECT_TRUE(residency_->IsReady(Id(0)));
  EXPECT_EQ(kv_->usage().adapter_slabs, 4);
}

TEST_F(ResidencyTest, APinnedAdapterIsUnloadedOnlyWithItsPin) {
  Start(20, {1}, {4});
  Load(0);
  store_->Pin(Id(0));
  store_->Unload(Id(0), /*unpin=*/false);
  EXPECT_TRUE(residency_->IsReady(Id(0)));
  EXPECT_TRUE(Status(0).pinned);
  store_->Unload(Id(0), /*unpin=*/true);
  EXPECT_FALSE(residency_->IsReady(Id(0)));
  EXPECT_FALSE(Status(0).pinned);
  EXPECT_EQ(kv_->usage().adapter_slabs, 0);
}

// The pool has no room for the pinned adapter, and its image is larger than the bound of host
// memory.
TEST_F(ResidencyTest, ImagesOfPinnedAdaptersStayInHostMemory) {
  Start(6, {1}, {4, 4, 4}, /*host_bytes=*/1);
  Load(0);
  residency_->Acquire(Id(0));
  store_->Pin(Id(1));
  FinishRead();
  EXPECT_EQ(Want(1), NeedState::kNoRoom);
  EXPECT_EQ(Want(2), NeedState::kLoading);
  FinishRead();  // makes room in host memory
  store_->CheckInvariants();
  EXPECT_EQ(Residence(1), AdapterResidency::kHost);
  EXPECT_FALSE(loader_->is_reading());
  residency_->Release(Id(0));
  EXPECT_EQ(Want(1), NeedState::kLoading);
  EXPECT_TRUE(loader_->is_copying()) << "it was kept, so it is not read again";
  loader_->FinishCopy();
  store_->Unpin(Id(1));
}

TEST_F(ResidencyTest, TheNumberOfImagesInHostMemoryIsBounded) {
  AdapterStoreOptions options;
  options.max_host_images = 2;
  Start(40, {1}, {1, 1, 1, 1}, options);
  for (size_t i = 0; i < 4; ++i) Load(i);
  EXPECT_TRUE(MakeRoom(0, 40, 40)) << "all leave the pool";
  int num_in_host = 0;
  for (size_t i = 0; i < 4; ++i) num_in_host += Residence(i) == AdapterResidency::kHost ? 1 : 0;
  EXPECT_EQ(num_in_host, 2);
}

// A retired adapter stays for the sequences that use it or wait for it, also when one of them is
// preempted, and leaves when there is none, pinned or not.
TEST_F(ResidencyTest, ARetiredAdapterLeavesAfterItsLastSequence) {
  Start(20, {1}, {4, 4});
  Load(0);
  store_->Pin(Id(0));
  residency_->AddWaiter(Id(0));
  residency_->Acquire(Id(0));
  Status(0).retired = true;
  store_->Unload(Id(0), /*unpin=*/true);
  EXPECT_TRUE(ChangedIds().empty());
  EXPECT_TRUE(residency_->IsReady(Id(0)));
  EXPECT_FALSE(Status(0).pinned);
  residency_->Release(Id(0));
  EXPECT_TRUE(ChangedIds().empty());
  EXPECT_TRUE(residency_->IsReady(Id(0))) << "another sequence waits for it";
  residency_->DropWaiter(Id(0));
  residency_->Acquire(Id(0));
  EXPECT_TRUE(ChangedIds().empty());
  residency_->Release(Id(0));
  residency_->AddWaiter(Id(0));
  EXPECT_TRUE(ChangedIds().empty()) << "the running sequence was preempted";
  EXPECT_TRUE(residency_->IsReady(Id(0)));
  residency_->DropWaiter(Id(0));
  EXPECT_FALSE(ChangedIds().empty());
  EXPECT_FALSE(residency_->IsReady(Id(0)));
  EXPECT_EQ(kv_->usage().adapter_slabs, 0);
  EXPECT_EQ(Residence(0), AdapterResidency::kDisk) << "no image is kept in host memory";
}

TEST_F(ResidencyTest, ARetiredAdapterThatIsBeingReadLeavesIfNobodyWaits) {
  Start(20, {1}, {4});
  residency_->AddWaiter(Id(0));
  EXPECT_EQ(Want(0), NeedState::kLoading);
  Status(0).retired = true;
  store_->Unload(Id(0), /*unpin=*/true);
  residency_->TakeChanges();
  residency_->DropWaiter(Id(0));
  residency_->TakeChanges();
  FinishRead();
  store_->CheckInvariants();
  EXPECT_EQ(Residence(0), AdapterResidency::kDisk);
}

// Calls OperatorLoads in the way the engine core does.
class OperatorLoadsTest : public ResidencyTest {
 protected:
  struct Answer {
    int num = 0;
    absl::Status status;
    bool gone = false;
  };

  void StartLoads(int64_t num_slabs, const std::vector<int32_t>& adapter_pages) {
    Start(num_slabs, {1}, adapter_pages);
    loads_ = std::make_unique<OperatorLoads>(residency_.get());
  }
  void Add(size_t adapter, Answer* answer) {
    loads_->Add(Id(adapter), {[answer](absl::Status status) {
                                ++answer->num;
                                answer->status = std::move(status);
                              },
                              [answer] { return answer->gone; }});
  }
  void Settle(int64_t reserve_slabs = 0, bool alone = true) {
    for (const NeedChange& change : residency_->TakeChanges()) loads_->OnChange(change);
    loads_->Ask(reserve_slabs, alone);
    store_->CheckInvariants();
  }
  void FinishAll() {
    for (int i = 0; i < 30; ++i) {
      Settle();
      if (loader_->is_reading()) FinishRead();
      if (loader_->is_copying()) loader_->FinishCopy();
    }
  }

  std::unique_ptr<OperatorLoads> loads_;
};

TEST_F(OperatorLoadsTest, EachWaitIsAnsweredOnce) {
  StartLoads(20, {4});
  Answer first, second, late;
  Add(0, &first);
  Add(0, &second);
  FinishAll();
  EXPECT_EQ(first.num, 1);
  EXPECT_EQ(second.num, 1);
  EXPECT_TRUE(first.status.ok() && second.status.ok());
  Add(0, &late);
  EXPECT_EQ(late.num, 0);
  Settle();
  EXPECT_EQ(late.num, 1) << "it is there";
  EXPECT_EQ(first.num, 1);
  loads_->EndAll(absl::UnavailableError("the server is shutting down"));
  EXPECT_EQ(late.num, 1);
}

TEST_F(OperatorLoadsTest, WhoHasGivenUpIsForgotten) {
  StartLoads(6, {4, 4});
  Load(0);
  residency_->Acquire(Id(0));
  Answer gone;
  Add(1, &gone);
  Settle(0, /*alone=*/false);
  FinishRead();
  Settle(0, /*alone=*/false);
  EXPECT_FALSE(loader_->is_copying()) << "there is no room";
  gone.gone = true;
  Settle(0, /*alone=*/false);
  residency_->Release(Id(0));
  Settle(0, /*alone=*/false);
  EXPECT_FALSE(loader_->is_copying()) << "nobody wants it any more";
  EXPECT_EQ(gone.num, 0);
  loads_->EndAll(absl::UnavailableError("the server is shutting down"));
  EXPECT_EQ(gone.num, 0);
}

TEST_F(OperatorLoadsTest, WhoIsBusyIsAskedForAgain) {
  StartLoads(40, std::vector<int32_t>(12, 1));
  std::vector<Answer> answers(12);
  for (size_t i = 0; i < answers.size(); ++i) Add(i, &answers[i]);
  FinishAll();
  for (const Answer& answer : answers) {
    EXPECT_EQ(answer.num, 1);
    EXPECT_TRUE(answer.status.ok());
  }
}

TEST_F(OperatorLoadsTest, WaitsForRoomWithWhatRunsLeftAlone) {
  StartLoads(20, {4});
  Answer answer;
  Add(0, &answer);
  Settle(17, /*alone=*/false);
  FinishRead();
  Settle(17, /*alone=*/false);
  EXPECT_FALSE(loader_->is_copying());
  Settle(16, /*alone=*/false);
  EXPECT_TRUE(loader_->is_copying());
  loader_->FinishCopy();
  Settle(17, /*alone=*/false);
  EXPECT_EQ(answer.num, 1);
}

TEST_F(OperatorLoadsTest, FailuresAreAnswered) {
  StartLoads(6, {4, 9});
  Answer unreadable, large;
  Add(0, &unreadable);
  Settle();
  loader_->FinishRead(absl::UnavailableError("the disk is gone"));
  Settle();
  EXPECT_EQ(unreadable.num, 1);
  EXPECT_EQ(unreadable.status.message(), "the disk is gone");
  Add(1, &large);
  FinishAll();
  EXPECT_EQ(large.num, 1);
  EXPECT_TRUE(absl::IsResourceExhausted(large.status)) << large.status;
}

// The callback that answers a wait may add another wait.
TEST_F(OperatorLoadsTest, AnAnswerMayAddAWait) {
  StartLoads(20, {4, 2});
  Answer second;
  loads_->Add(Id(0), {[&](const absl::Status&) { Add(1, &second); }, nullptr});
  FinishAll();
  EXPECT_EQ(second.num, 1);
  EXPECT_TRUE(residency_->IsReady(Id(1)));
}

TEST_F(OperatorLoadsTest, AllEndWithTheServer) {
  StartLoads(20, {4, 2});
  Answer reading, new_one;
  Add(0, &reading);
  Settle();
  Add(1, &new_one);
  loads_->EndAll(absl::UnavailableError("the server is shutting down"));
  EXPECT_EQ(reading.num, 1);
  EXPECT_EQ(new_one.num, 1);
  EXPECT_TRUE(absl::IsUnavailable(reading.status));
  FinishAll();
  EXPECT_EQ(reading.num, 1);
}

}  // namespace
}  // namespace tessera::testing
