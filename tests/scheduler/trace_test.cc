// Plays the tests/traces/*.trace files: commands to an engine core on a fake runner with a manual
// clock. Each command is followed by the lines that it must print ("= LINE"). Empty lines and lines
// that start with # are ignored. TESSERA_UPDATE_TRACES=1 rewrites the expected lines; read the diff
// before you commit it.
//
// Commands:
//   engine [KEY=N]...            options of the engine, before the first submit
//   model NAME [OPTION]...       adds a model
//   submit ID OPTION...          submits a request
//   step [N]                     runs one round of the loop, or N; prints the plans that were
//                                launched, preemptions, events, and "idle" if nothing ran
//   run                          runs rounds until nothing runs; prints events only
//   cancel ID                    cancels a request
//   pause ID                     pauses a request, as for a slow reader
//   resume ID                    resumes a paused request
//   fill ID upto=N [holes=A-B,...]
//                                puts KV below token N into a running request's pages, except for
//                                the holes [A, B), which must be computed again
//   wait N                       advances the clock by N microseconds
//
// Keys of engine, with their defaults:
//   max_seqs=4                   slots
//   batched=32                   most tokens in a step
//   slabs=64                     slabs of the pool, without the null page
//   depth=1                      steps in flight
//   target_us=0                  target of a step's time
//   target_ratio=1               target of a step's time, in multiples of a decode step
//   ageing_us=1000000            waiting time that is worth a priority class
//   watermark_pct=0              share of the pool that admission leaves free
//   row_us=0                     time of a step for each row of logits, besides 1,000 us for the
//                                step and 10 us for each token
//
// Options of model, with their defaults:
//   windows=0                    sliding windows of the KV groups, as in 0,8; 0: full attention
//   page_tokens=4
//   max_len=64                   length of the context
//
// Options of submit, with their defaults:
//   prompt=STREAMxLENGTH[+...]   concatenated prefixes of numbered token streams; required
//   max=1                        max_tokens
//   model=0                      index of the model
//   prio=low|high                priority; normal without the option
//   n=1                          copies
//   salt=S                       salt of the prefix cache
//   bypass                       sets bypass_prefix
//   limit_us=0                   time limit; 0: none
//   score                        asks for prompt logprobs
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "scheduler/step/engine_core.h"
#include "tests/lib/core_driver.h"
#include "tests/lib/fake_runner.h"
#include "tests/lib/put_kv.h"

namespace tessera {
namespace {

using Options = std::map<std::string, std::string>;

class LogSink final : public TokenSink {
 public:
  LogSink(uint64_t id, std::vector<std::string>* log) : id_(id), log_(log) {}
  void Push(TokenEvent event) override {
    if (event.kind == TokenEvent::Kind::kPromptLogprobs) {
      log_->push_back(absl::StrCat("  ", id_, " scored ", event.tokens.size()));
    }
    if (event.kind != TokenEvent::Kind::kFinished) return;
    log_->push_back(absl::StrCat(
        "  ", id_, ".", event.index, " finished ", FinishReasonName(event.reason),
        " tokens=", event.usage.completion_tokens, " cached=", event.usage.cached_prompt_tokens));
  }

 private:
  const uint64_t id_;
  std::vector<std::string>* const log_;
};

class TraceRun {
 public:
  std::vector<std::string> Execute(const std::string& command) {
    log_.clear();
    const std::vector<std::string> words = absl::StrSplit(command, ' ', absl::SkipEmpty());
    Options options;
    for (const std::string& word : words) {
      const std::pair<std::string, std::string> kv = absl::StrSplit(word, absl::MaxSplits('=', 1));
      options[kv.first] = kv.second;
    }
    const std::string& verb = words[0];
    if (verb == "engine") {
      engine_ = options;
    } else if (verb == "model") {
      AddModel(words[1], options);
    } else if (verb == "submit") {
      Submit(Number(words[1]), options);
    } else if (verb == "step") {
      const int64_t rounds = words.size() > 1 ? Number(words[1]) : 1;
      for (int64_t i = 0; i < rounds; ++i) Step(/*print=*/true);
    } else if (verb == "run") {
      while (Step(/*print=*/false)) {
      }
    } else if (verb == "cancel") {
      core()->Cancel(Number(words[1]), -1, CancelReason::kClient);
    } else if (verb == "pause" || verb == "resume") {
      core()->Throttle(Number(words[1]), verb == "pause");
    } else if (verb == "fill") {
      Fill(static_cast<uint64_t>(Number(words[1])), options);
    } else if (verb == "wait") {
      clock_.Advance(Number(words[1]));
    } else {
      ADD_FAILURE() << "unknown command: " << command;
    }
    if (core_ != nullptr) core_->CheckInvariants();
    return log_;
  }

 private:
  static int64_t Number(const std::string& text) {
    int64_t value = 0;
    EXPECT_TRUE(absl::SimpleAtoi(text, &value)) << text;
    return value;
  }
  static int64_t Get(const Options& options, const std::string& key, int64_t otherwise) {
    const auto it = options.find(key);
    return it == options.end() ? otherwise : Number(it->second);
  }

  void AddModel(const std::string& name, const Options& options) {
    std::vector<int32_t> windows;
    const auto it = options.find("windows");
    for (const auto& w : absl::StrSplit(it == options.end() ? "0" : it->second, ',')) {
      windows.push_back(static_cast<int32_t>(Number(std::string(w))));
    }
    models_.push_back(testing::FakeModel(name, windows,
                                         static_cast<int32_t>(Get(options, "page_tokens", 4)),
                                         Get(options, "max_len", 64)));
  }

  EngineCore* core() {
    if (core_ != nullptr) return core_.get();
    const int64_t num_slabs = Get(engine_, "slabs", 64) + 1;
    EngineOptions options;
    options.models = models_;
    options.max_num_seqs = static_cast<int32_t>(Get(engine_, "max_seqs", 4));
    options.max_num_batched_tokens = static_cast<int32_t>(Get(engine_, "batched", 32));
    options.target_step_us = Get(engine_, "target_us", 0);
    options.target_step_ratio = static_cast<int32_t>(Get(engine_, "target_ratio", 1));
    options.ageing_us = Get(engine_, "ageing_us", 1'000'000);
    options.watermark = static_cast<double>(Get(engine_, "watermark_pct", 0)) / 100;
    options.deployment_secret = "trace";
    auto kv = NewKvManager(num_slabs, models_[0].layout.slab_bytes, 1);
    for (const EngineModel& model : models_) kv->AddModel(model.layout);
    testing::FakeRunnerOptions runner;
    runner.models = models_;
    runner.num_slabs = num_slabs;
    runner.depth = static_cast<int>(Get(engine_, "depth", 1));
    runner.max_num_seqs = options.max_num_seqs;
    runner.clock = &clock_;
    runner.step_us = [row_us = Get(engine_, "row_us", 0)](const StepBatch& batch) {
      return int64_t{1000} + 10 * static_cast<int64_t>(batch.tokens.count) +
             row_us * static_cast<int64_t>(batch.sampler_rows.count);
    };
    stats_ = std::make_unique<EngineStats>(models_.size());
    auto fake = std::make_unique<testing::FakeRunner>(runner);
    runner_ = fake.get();
    kv_ = kv.get();
    core_ = std::make_unique<EngineCore>(options, std::move(kv), std::move(fake), nullptr,
                                         stats_.get(), nullptr);
    driver_ = std::make_unique<testing::CoreDriver>(core_.get(), &clock_,
                                                    [this] { runner_->FinishOldest(); });
    core_->set_plan_observer([this](const StepPlan& plan) { PrintPlan(plan); });
    return core_.get();
  }

  void PrintPlan(const StepPlan& plan) {
    std::string line = absl::StrCat("model ", plan.model, ":");
    for (const PlanEntry& e : plan.entries) {
      absl::StrAppend(&line, " ", e.sequence->request->id, ".", e.sequence->index);
      for (const TokenRange& r : e.ranges) absl::StrAppend(&line, "[", r.begin, ",", r.end, ")");
      if (e.samples) absl::StrAppend(&line, "*");
      if (e.num_targets > 0) absl::StrAppend(&line, "t", e.num_targets);
    }
    if (print_plans_) log_.push_back(line);
  }

  bool Step(bool print) {
    print_plans_ = print;
    core();
    const int64_t preemptions = stats_->preemptions.value();
    const bool busy = driver_->RunOnce();
    const int64_t preempted = stats_->preemptions.value() - preemptions;
    if (print && preempted > 0) log_.push_back(absl::StrCat("  preempted ", preempted));
    if (print && !busy) log_.push_back("  idle");
    return busy;
  }

  void Submit(int64_t id, const Options& options) {
    auto request = std::make_unique<Request>();
    request->id = static_cast<uint64_t>(id);
    request->model = static_cast<int32_t>(Get(options, "model", 0));
    core();
    const EngineModel& model = models_.at(request->model);
    for (const std::string& part :
         std::vector<std::string>(absl::StrSplit(options.at("prompt"), '+'))) {
      const std::pair<std::string, std::string> stream = absl::StrSplit(part, 'x');
      for (int64_t i = 0; i < Number(stream.second); ++i) {
        request->prompt.push_back(
            static_cast<TokenId>((Number(stream.first) * 131 + i * 7) % model.vocab_size));
      }
    }
    request->stopping.max_tokens = Get(options, "max", 1);
    request->stopping.time_limit_us = Get(options, "limit_us", 0);
    request->sampling.temperature = 0.0f;
    request->sampling.n = static_cast<int32_t>(Get(options, "n", 1));
    request->bypass_prefix = options.count("bypass") > 0;
    if (options.count("score") > 0) request->prompt_logprobs = 0;
    if (options.count("salt") > 0) request->salt = options.at("salt");
    if (options.count("prio") > 0) {
      request->priority = options.at("prio") == "high" ? Priority::kHigh : Priority::kLow;
    }
    request->arrival_us = clock_.NowUs();
    request->sink = std::make_shared<LogSink>(request->id, &log_);
    core()->Submit(std::move(request));
  }

  void Fill(uint64_t id, const Options& options) {
    std::vector<TokenRange> holes;
    const auto it = options.find("holes");
    if (it != options.end()) {
      for (const std::string& hole : std::vector<std::string>(absl::StrSplit(it->second, ','))) {
        const std::pair<std::string, std::string> ends = absl::StrSplit(hole, '-');
        holes.push_back({Number(ends.first), Number(ends.second)});
      }
    }
    for (Sequence* s : core()->scheduler().Running()) {
      if (s->request->id != id || !testing::TakesKv(*s)) continue;
      const testing::KvTarget target{core(), kv_, runner_};
      if (testing::PutKv(target, s, Number(options.at("upto")), holes)) return;
    }
    log_.push_back("  not filled");
  }

  Options engine_;
  std::vector<EngineModel> models_;
  ManualClock clock_;
  std::unique_ptr<EngineStats> stats_;
  std::vector<std::string> log_;
  bool print_plans_ = true;
  KvManager* kv_ = nullptr;                // owned by the core
  testing::FakeRunner* runner_ = nullptr;  // owned by the core
  std::unique_ptr<EngineCore> core_;
  std::unique_ptr<testing::CoreDriver> driver_;
};

class TraceTest : public ::testing::TestWithParam<std::string> {};

TEST_P(TraceTest, PrintsWhatItShould) {
  std::ifstream in(GetParam());
  ASSERT_TRUE(in.good()) << GetParam();
  TraceRun run;
  std::string updated;
  std::vector<std::string> printed;
  size_t next = 0;
  std::string line;
  int number = 0;
  while (std::getline(in, line)) {
    ++number;
    if (line.rfind("= ", 0) == 0) {
      const std::string expected = line.substr(2);
      EXPECT_EQ(next < printed.size() ? printed[next] : "(nothing)", expected)
          << GetParam() << ":" << number;
      ++next;
      continue;
    }
    EXPECT_GE(next, printed.size())
        << GetParam() << ":" << number
        << ": not expected: " << (next < printed.size() ? printed[next] : "");
    absl::StrAppend(&updated, line, "\n");
    printed.clear();
    next = 0;
    if (line.empty() || line[0] == '#') continue;
    printed = run.Execute(line);
    for (const std::string& text : printed) absl::StrAppend(&updated, "= ", text, "\n");
  }
  EXPECT_GE(next, printed.size()) << GetParam() << ": not expected at the end";
  in.close();
  if (std::getenv("TESSERA_UPDATE_TRACES") != nullptr) std::ofstream(GetParam()) << updated;
}

std::vector<std::string> Traces() {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator("tests/traces")) {
    if (entry.path().extension() == ".trace") paths.push_back(entry.path().string());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

INSTANTIATE_TEST_SUITE_P(All, TraceTest, ::testing::ValuesIn(Traces()), [](const auto& info) {
  return std::filesystem::path(info.param).stem().string();
});

}  // namespace
}  // namespace tessera
