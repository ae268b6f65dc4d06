// Measures the engine thread's time in the verbs of KvManager, with 1,000 live sequences. Run:
//   build/bin/tessera_kvstore_bench
#include <benchmark/benchmark.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "kernels/base/log.h"
#include "kvstore/kv_manager.h"

namespace tessera {
namespace {

constexpr int64_t kNumSequences = 1000;
constexpr int64_t kPromptTokens = 512;
constexpr int64_t kSharedTokens = 256;
constexpr int64_t kPageTokens = 16;

// Returns a layout with one KV group for each window.
PageLayout Layout(const std::vector<int32_t>& windows) {
  PageLayout layout;
  for (const int32_t window : windows)
    layout.groups.push_back({1, 1, 8, kPageTokens, DType::kF32, window});
  layout.slab_bytes = 4096;
  return layout;
}

struct BenchSequence {
  KvState state;
  std::vector<TokenId> tokens;
};

// A KV store with sequences whose prompts start with one of ten shared halves.
class Store {
 public:
  Store(const std::vector<int32_t>& windows, int64_t num_slabs)
      : kv_(NewKvManager(num_slabs, 4096, 1)) {
    kv_->AddModel(Layout(windows));
  }
  KvManager* kv() { return kv_.get(); }

  std::unique_ptr<BenchSequence> NewSequence() {
    auto s = std::make_unique<BenchSequence>();
    const auto id = static_cast<TokenId>(num_made_++);
    for (int64_t i = 0; i < kPromptTokens; ++i) {
      s->tokens.push_back(i < kSharedTokens ? id % 10 : id);
    }
    return s;
  }
  void Admit(BenchSequence* s) {
    kv_->Match(&s->state, s->tokens);
    kv_->Admit(&s->state, s->tokens);
    CHECK(kv_->Grow(&s->state, kPromptTokens));
  }
  void FillAndCompute() {
    while (static_cast<int64_t>(live_.size()) < kNumSequences) {
      live_.push_back(NewSequence());
      Admit(live_.back().get());
      kv_->Advance(&live_.back()->state, live_.back()->tokens, kPromptTokens);
    }
  }
  std::vector<std::unique_ptr<BenchSequence>>& live() { return live_; }

 private:
  std::unique_ptr<KvManager> kv_;
  std::vector<std::unique_ptr<BenchSequence>> live_;
  int64_t num_made_ = 0;
};

// Returns the windows of one group of full attention and num_groups - 1 windowed groups. Six groups
// are those of Gemma 3.
std::vector<int32_t> Windows(int64_t num_groups) {
  std::vector<int32_t> windows(num_groups, 256);
  windows[0] = 0;
  return windows;
}

void BM_HashPage(benchmark::State& bench) {
  PageHasher hasher;
  const std::vector<TokenId> tokens(bench.range(0), 1000);
  PageHash hash;
  for (auto _ : bench) benchmark::DoNotOptimize(hash = hasher.Page(hash, tokens));
}
BENCHMARK(BM_HashPage)->Arg(16)->Arg(64);

// Measures Match of a prompt whose page hashes are already computed, as for the first sequence of
// the queue in every plan.
void BM_Match(benchmark::State& bench) {
  Store store(Windows(bench.range(0)), 400000);
  store.FillAndCompute();
  const auto s = store.NewSequence();
  for (auto _ : bench) benchmark::DoNotOptimize(store.kv()->Match(&s->state, s->tokens));
}
BENCHMARK(BM_Match)->Arg(1)->Arg(6);

// Measures the life of a sequence, sixteen at a time: Admit (a hit of 256 tokens, 256 tokens to
// hash) and Grow, one step, Release. The pool is full, so pages are evicted. The counters admit_ns,
// advance_ns and release_ns give the time per sequence of these three phases.
void BM_AdmitAdvanceRelease(benchmark::State& bench) {
  constexpr int kBatch = 16;
  const int64_t num_groups = bench.range(0);
  Store store(Windows(num_groups),
              1 + num_groups * (kNumSequences + kBatch + 4) * kPromptTokens / kPageTokens);
  store.FillAndCompute();
  double seconds[3] = {0.0, 0.0, 0.0};
  std::vector<std::unique_ptr<BenchSequence>> batch;
  for (auto _ : bench) {
    batch.clear();
    while (batch.size() < kBatch) batch.push_back(store.NewSequence());
    using Clock = std::chrono::steady_clock;
    const Clock::time_point start = Clock::now();
    for (auto& s : batch) store.Admit(s.get());
    const Clock::time_point admitted = Clock::now();
    for (auto& s : batch) store.kv()->Advance(&s->state, s->tokens, kPromptTokens);
    const Clock::time_point advanced = Clock::now();
    for (auto& s : batch) store.kv()->Release(&s->state);
    const Clock::time_point released = Clock::now();
    seconds[0] += std::chrono::duration<double>(admitted - start).count();
    seconds[1] += std::chrono::duration<double>(advanced - admitted).count();
    seconds[2] += std::chrono::duration<double>(released - advanced).count();
    bench.SetIterationTime(std::chrono::duration<double>(released - start).count());
  }
  const double num_lives = static_cast<double>(kBatch * bench.iterations());
  bench.counters["admit_ns"] = seconds[0] / num_lives * 1e9;
  bench.counters["advance_ns"] = seconds[1] / num_lives * 1e9;
  bench.counters["release_ns"] = seconds[2] / num_lives * 1e9;
}
BENCHMARK(BM_AdmitAdvanceRelease)->Arg(1)->Arg(6)->UseManualTime()->Unit(benchmark::kMicrosecond);

// Measures a decode step of a sequence: Grow by a token, and Advance, for all 1,000 sequences in
// turn.
void BM_Decode(benchmark::State& bench) {
  const int64_t num_groups = bench.range(0);
  Store store(Windows(num_groups), 400000);
  store.FillAndCompute();
  int64_t num_tokens = kPromptTokens;
  for (auto _ : bench) {
    ++num_tokens;
    if (num_tokens > kPromptTokens + 1000) {
      bench.PauseTiming();
      for (auto& s : store.live()) store.kv()->Release(&s->state);
      store.live().clear();
      store.FillAndCompute();
      num_tokens = kPromptTokens + 1;
      bench.ResumeTiming();
    }
    for (auto& s : store.live()) {
      s->tokens.push_back(7);
      CHECK(store.kv()->Grow(&s->state, num_tokens));
      store.kv()->Advance(&s->state, s->tokens, num_tokens);
    }
  }
  bench.counters["per_sequence"] =
      benchmark::Counter(static_cast<double>(kNumSequences * bench.iterations()),
                         benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}
BENCHMARK(BM_Decode)->Arg(1)->Arg(6)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace tessera

BENCHMARK_MAIN();
