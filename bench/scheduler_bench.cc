// Measures the engine thread's time in the scheduler, without tensors: planning a step, and
// planning, building and retiring a step, with many streams, waiting requests, models, tenants and
// priorities; and events that concern thousands of sequences at once. Run:
//   build/bin/tessera_scheduler_bench [--quick] [--json FILE]
// --quick runs every case with few sequences, to check that the benchmark works.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "bench/scheduler_rig.h"
#include "kernels/base/log.h"

namespace tessera::bench {
namespace {

constexpr char kUsage[] = "usage: tessera_scheduler_bench [--quick] [--json FILE]\n";

// The targets of the project, on one core.
constexpr double kMaxPlanMs = 0.1;   // planning a step, for 1,000 of its streams
constexpr double kMaxWholeMs = 0.6;  // planning, building and retiring, for 1,000 streams
constexpr double kMaxGrowth = 1.2;   // growth of these two figures with any size
constexpr double kMaxManyMs = 50.0;  // an event that concerns 10,000 sequences
// Growth of such an event's time from 1,000 to 10,000 sequences: linear growth, with a factor of 2
// for the processor's caches.
constexpr double kMaxManyGrowth = 20.0;

constexpr int kWarmUpSteps = 4;
constexpr int kMeasuredSteps = 48;  // a stream needs a new page in one of 16 steps
constexpr int kBlocks = 3;  // blocks of measured steps; the one with the least median counts
constexpr int32_t kPageTokens = 16;
constexpr int32_t kPromptTokens = 16;
// A size whose predicted time is above this is left out.
constexpr double kCapMs = 5000.0;
constexpr int kManyRounds = 5;
constexpr double kManyRoundsMs = 1500.0;  // no round starts after this time

struct Sizes {
  std::vector<int64_t> running = {256, 1000, 4000, 10'000};
  std::vector<int64_t> mixed_running = {1000, 10'000};
  int64_t running_beside_waiting = 1000;
  std::vector<int64_t> waiting = {0, 1000, 100'000};
  int64_t many = 1000;  // half and ten times this number are measured too
};

Sizes QuickSizes() { return {{16, 64}, {64}, 64, {0, 100}, 20}; }

// A measured case. The names of the figures are the keys of the JSON file.
struct Result {
  std::string name;
  std::vector<std::pair<std::string, double>> figures;
  std::string remark;
};

class Results {
 public:
  void Add(Result result) {
    std::string line = absl::StrFormat("%-20s", result.name);
    for (const auto& [name, value] : result.figures) {
      const bool whole = value == std::floor(value) && value < 1e9;
      absl::StrAppend(&line, "  ", name, " ",
                      whole ? absl::StrFormat("%.0f", value) : absl::StrFormat("%.4f", value));
    }
    if (!result.remark.empty()) absl::StrAppend(&line, "  (", result.remark, ")");
    std::puts(line.c_str());
    std::fflush(stdout);
    results_.push_back(std::move(result));
  }

  std::string Json() const {
    std::vector<std::string> cases;
    for (const Result& result : results_) {
      std::string text = absl::StrCat("    {\"case\": \"", result.name, "\"");
      for (const auto& [name, value] : result.figures) {
        absl::StrAppend(&text, ", \"", name, "\": ", absl::StrFormat("%.6g", value));
      }
      if (!result.remark.empty()) absl::StrAppend(&text, ", \"remark\": \"", result.remark, "\"");
      cases.push_back(absl::StrCat(text, "}"));
    }
    return absl::StrCat("{\n  \"cases\": [\n", absl::StrJoin(cases, ",\n"), "\n  ]\n}\n");
  }

 private:
  std::vector<Result> results_;
};

double Median(std::vector<double> values) {
  CHECK(!values.empty());
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// Submits the requests make(0), make(1), ... and runs steps until `num_running` streams decode.
void FillRunning(SchedulerRig* rig, int64_t num_running,
                 const std::function<RigRequest(int64_t)>& make) {
  for (int64_t i = 0; i < num_running; ++i) rig->Submit(make(i));
  while (rig->num_waiting() > 0) rig->Step();
  CHECK_EQ(rig->num_running(), num_running);
}

// Returns request i, with a prompt length that makes streams need new pages in different steps.
RigRequest Staggered(int64_t i) {
  RigRequest request;
  request.num_prompt_tokens = kPromptTokens + static_cast<int32_t>(i % kPageTokens);
  return request;
}

RigOptions OptionsFor(int64_t num_running) {
  RigOptions options;
  options.max_num_seqs = static_cast<int32_t>(num_running);
  options.max_num_batched_tokens = static_cast<int32_t>(4 * num_running);
  options.page_tokens = kPageTokens;
  // The first streams already run while others are admitted, so the pool has room for more tokens
  // than the prompts and the measured steps need.
  options.num_pages = num_running * 16;
  return options;
}

struct StepCosts {
  double plan_ms = 0.0;  // median, like whole_ms
  double whole_ms = 0.0;
  double streams = 0.0;  // streams of a round, which has one step of each model
};

StepCosts MeasureBlock(SchedulerRig* rig, int32_t num_models) {
  std::vector<double> plan_ms;
  std::vector<double> whole_ms;
  int64_t num_entries = 0;
  for (int i = 0; i < kMeasuredSteps; ++i) {
    StepTimes round;
    for (int32_t m = 0; m < num_models; ++m) {
      const StepTimes step = rig->Step();
      round.plan_ms += step.plan_ms;
      round.whole_ms += step.whole_ms;
      num_entries += step.num_entries;
    }
    plan_ms.push_back(round.plan_ms);
    whole_ms.push_back(round.whole_ms);
  }
  return {Median(std::move(plan_ms)), Median(std::move(whole_ms)),
          static_cast<double>(num_entries) / kMeasuredSteps};
}

StepCosts MeasureSteps(SchedulerRig* rig, int32_t num_models) {
  for (int i = 0; i < kWarmUpSteps; ++i) rig->Step();
  StepCosts least = MeasureBlock(rig, num_models);
  for (int block = 1; block < kBlocks; ++block) {
    const StepCosts costs = MeasureBlock(rig, num_models);
    least.plan_ms = std::min(least.plan_ms, costs.plan_ms);
    least.whole_ms = std::min(least.whole_ms, costs.whole_ms);
  }
  return least;
}

Result Per1000(const std::string& name, int64_t num_running, const StepCosts& costs) {
  const double plan_ms = costs.plan_ms * 1000 / costs.streams;
  const double whole_ms = costs.whole_ms * 1000 / costs.streams;
  const bool kept = plan_ms <= kMaxPlanMs && whole_ms <= kMaxWholeMs;
  return {name,
          {{"running", static_cast<double>(num_running)},
           {"plan_ms_per_1000", plan_ms},
           {"whole_ms_per_1000", whole_ms}},
          kept ? "" : "over the target"};
}

std::string Growth(const std::string& what, double first, double last, double most) {
  return absl::StrFormat("%s %.2f times the first, %s", what, last / first,
                         last / first <= most ? "within the target" : "over the target");
}

void Steady(const Sizes& sizes, Results* results) {
  StepCosts first;
  for (const int64_t num_running : sizes.running) {
    SchedulerRig rig(OptionsFor(num_running));
    FillRunning(&rig, num_running, Staggered);
    StepCosts costs = MeasureSteps(&rig, 1);
    Result result = Per1000("steady", num_running, costs);
    costs.plan_ms /= costs.streams;
    costs.whole_ms /= costs.streams;
    if (num_running == sizes.running.front()) first = costs;
    if (num_running == sizes.running.back()) {
      absl::StrAppend(&result.remark, result.remark.empty() ? "" : "; ",
                      Growth("plan", first.plan_ms, costs.plan_ms, kMaxGrowth), ", ",
                      Growth("whole", first.whole_ms, costs.whole_ms, kMaxGrowth));
    }
    results->Add(std::move(result));
  }
}

// Measures streams of several models, tenants and priorities. With 4 models, each model's step has
// a quarter of the streams, and the time for 1,000 streams is that of the step's own streams.
void Mixed(const Sizes& sizes, Results* results) {
  constexpr int32_t kNumModels = 4;
  constexpr int64_t kNumTenants = 16;
  const auto of_models = [](int64_t i) {
    RigRequest request = Staggered(i);
    request.model = static_cast<int32_t>(i % kNumModels);
    return request;
  };
  const auto of_tenants = [](int64_t i) {
    RigRequest request = Staggered(i);
    request.tenant = absl::StrCat("tenant", i % kNumTenants);
    return request;
  };
  // Streams of three priorities that arrived now, two ageing times ago or four ageing times ago.
  const auto of_priorities = [](int64_t i) {
    RigRequest request = Staggered(i);
    const int64_t mix = i % 8;
    request.priority = static_cast<Priority>(mix % kNumPriorities);
    request.age_us = mix / kNumPriorities * 2 * SchedulerOptions{}.ageing_us;
    return request;
  };
  for (const int64_t num_running : sizes.mixed_running) {
    RigOptions options = OptionsFor(num_running);
    const auto measure = [&](const std::string& name, const auto& make) {
      SchedulerRig rig(options);
      FillRunning(&rig, num_running, make);
      results->Add(Per1000(name, num_running, MeasureSteps(&rig, options.num_models)));
    };
    measure("tenants_16", of_tenants);
    measure("priorities_8", of_priorities);
    options.num_models = kNumModels;
    measure("models_4", of_models);
  }
}

// Measures steps beside waiting requests. The streams stay within their first page, so that they
// need no further page while none is free.
StepCosts BesideWaiting(int64_t num_running, int64_t num_waiting, bool has_slot) {
  RigOptions options = OptionsFor(num_running);
  options.max_num_seqs += has_slot ? 1 : 0;
  options.page_tokens = 256;
  RigRequest request;
  request.num_prompt_tokens = 4;
  const auto same = [&request](int64_t) { return request; };
  SchedulerRig rig(options);
  FillRunning(&rig, num_running, same);
  if (has_slot) rig.TakeFreePages();
  for (int64_t i = 0; i < num_waiting; ++i) rig.Submit(request);
  const StepCosts costs = MeasureSteps(&rig, 1);
  CHECK_EQ(rig.num_waiting(), num_waiting);
  return costs;
}

void Waiting(const Sizes& sizes, Results* results) {
  for (const bool has_slot : {false, true}) {
    StepCosts first;
    for (const int64_t num_waiting : sizes.waiting) {
      const StepCosts costs = BesideWaiting(sizes.running_beside_waiting, num_waiting, has_slot);
      if (num_waiting == sizes.waiting.front()) first = costs;
      results->Add({has_slot ? "waiting_no_pages" : "waiting_no_slot",
                    {{"running", static_cast<double>(sizes.running_beside_waiting)},
                     {"waiting", static_cast<double>(num_waiting)},
                     {"plan_ms", costs.plan_ms},
                     {"whole_ms", costs.whole_ms}},
                    Growth("whole", first.whole_ms, costs.whole_ms, kMaxGrowth)});
    }
  }
}

// Runs an event that concerns `num` sequences and returns its time in milliseconds.
using ManyRound = std::function<double(int64_t num)>;

double MeasureMany(int64_t num, const ManyRound& round) {
  std::vector<double> ms;
  const StopWatch watch;
  do {
    ms.push_back(round(num));
  } while (ms.size() < kManyRounds && watch.ElapsedMs() < kManyRoundsMs);
  return Median(std::move(ms));
}

// Measures `num` and ten times `num` sequences. An event whose time grows faster than linearly
// could take minutes, so the growth from half of `num` to `num` predicts the time of the large
// size, which is left out if the prediction is above kCapMs.
void Many(const std::string& name, int64_t num, const ManyRound& round, Results* results) {
  const double half_ms = MeasureMany(num / 2, round);
  const double ms = MeasureMany(num, round);
  results->Add({name, {{"sequences", static_cast<double>(num)}, {"ms", ms}}, ""});
  const double exponent = std::clamp(std::log2(ms / half_ms), 1.0, 4.0);
  const double predicted_ms = ms * std::pow(10.0, exponent);
  const auto large = static_cast<double>(10 * num);
  if (predicted_ms > kCapMs) {
    results->Add({name,
                  {{"sequences", large}, {"predicted_ms", predicted_ms}},
                  absl::StrFormat("left out: grows by the power %.1f; over the target", exponent)});
    return;
  }
  const double large_ms = MeasureMany(10 * num, round);
  results->Add({name,
                {{"sequences", large}, {"ms", large_ms}},
                absl::StrCat(large_ms > kMaxManyMs ? "over the target; " : "",
                             Growth("ms", ms, large_ms, kMaxManyGrowth))});
}

// Returns the time from the first step until all waiting requests are admitted.
double AdmitAllMs(int64_t num) {
  SchedulerRig rig(OptionsFor(num));
  for (int64_t i = 0; i < num; ++i) rig.Submit(RigRequest{});
  const StopWatch watch;
  while (rig.num_waiting() > 0) rig.Step();
  return watch.ElapsedMs();
}

// All streams need a new page in the same step and no page is free, so half of the streams are
// preempted.
double PreemptionStormMs(int64_t num) {
  RigOptions options = OptionsFor(num);
  options.max_num_batched_tokens = static_cast<int32_t>(num * kPageTokens);
  SchedulerRig rig(options);
  RigRequest request;
  request.num_prompt_tokens = kPageTokens / 2;
  FillRunning(&rig, num, [&request](int64_t) { return request; });
  for (int32_t i = 0; i < kPageTokens / 2; ++i) rig.Step();
  rig.TakeFreePages();
  CHECK_EQ(rig.num_preemptions(), 0);
  const double ms = rig.Step().whole_ms;
  CHECK_GE(rig.num_preemptions(), num / 3);
  return ms;
}

double CancelRunningMs(int64_t num) {
  SchedulerRig rig(OptionsFor(num));
  FillRunning(&rig, num, Staggered);
  const StopWatch watch;
  rig.CancelAll();
  return watch.ElapsedMs();
}

double CancelWaitingMs(int64_t num) {
  SchedulerRig rig(OptionsFor(num));
  for (int64_t i = 0; i < num; ++i) rig.Submit(RigRequest{});
  const StopWatch watch;
  rig.CancelAll();
  CHECK_EQ(rig.num_waiting(), 0);
  return watch.ElapsedMs();
}

void RunAll(const Sizes& sizes, Results* results) {
  std::printf(
      "Targets: plan <= %.1f ms and whole <= %.1f ms for 1,000 streams, flat within 20 %%; "
      "independent of\nwhat waits; <= %.0f ms for 10,000 sequences at once, linear.\n",
      kMaxPlanMs, kMaxWholeMs, kMaxManyMs);
  const StopWatch watch;
  Steady(sizes, results);
  Waiting(sizes, results);
  Mixed(sizes, results);
  Many("admission", sizes.many, AdmitAllMs, results);
  Many("preemption_storm", sizes.many, PreemptionStormMs, results);
  Many("cancel_running", sizes.many, CancelRunningMs, results);
  Many("cancel_waiting", sizes.many, CancelWaitingMs, results);
  std::printf("%.1f s in all\n", watch.ElapsedMs() * 1e-3);
}

int Main(const std::vector<std::string>& arguments) {
  Sizes sizes;
  std::ofstream json;
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == "--quick") {
      sizes = QuickSizes();
    } else if (arguments[i] == "--json" && i + 1 < arguments.size()) {
      json.open(arguments[++i]);
      if (json) continue;
      std::cerr << "--json: cannot write '" << arguments[i] << "'; check the path\n";
      return 2;
    } else {
      std::cerr << "unknown or incomplete flag '" << arguments[i] << "'\n" << kUsage;
      return 2;
    }
  }
  Results results;
  RunAll(sizes, &results);
  if (!json.is_open()) return 0;
  json << results.Json() << std::flush;
  return json ? 0 : 1;
}

}  // namespace
}  // namespace tessera::bench

int main(int argc, char** argv) {
  tessera::InitLogging("warn");
  return tessera::bench::Main(std::vector<std::string>(argv + 1, argv + argc));
}
