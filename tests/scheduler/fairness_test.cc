// Tests of the shares of tenants on a simulated device: what each gets while others flood, how far
// the counters of tenants that wait may differ, what fairness costs, and limits. Time is simulated.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "scheduler/step/engine_core.h"
#include "tests/lib/load_simulation.h"

namespace tessera::testing {
namespace {

constexpr int64_t kMsUs = 1000;
constexpr int64_t kSecondUs = 1'000'000;

SimulationOptions Options() {
  SimulationOptions options;
  options.engine.max_queue = 100'000;
  options.engine.max_queue_delay_us = 0;
  return options;
}

SimulatedRequest RequestOf(const std::string& tenant, int64_t arrival_us, int32_t num_prompt,
                           int64_t num_output) {
  SimulatedRequest request;
  request.tenant = tenant;
  request.arrival_us = arrival_us;
  request.num_prompt_tokens = num_prompt;
  request.num_output_tokens = num_output;
  request.max_tokens = num_output;
  return request;
}

void SortByArrival(std::vector<SimulatedRequest>* requests) {
  std::stable_sort(requests->begin(), requests->end(),
                   [](const SimulatedRequest& a, const SimulatedRequest& b) {
                     return a.arrival_us < b.arrival_us;
                   });
}

// A flood of 500 requests that arrive at once, and as many as end after that.
std::vector<SimulatedRequest> Flood(const std::string& tenant, int count = 500) {
  std::vector<SimulatedRequest> requests;
  for (int i = 0; i < count; ++i) requests.push_back(RequestOf(tenant, 0, 256, 200));
  return requests;
}

// One request a second, 8 to 64 tokens long.
std::vector<SimulatedRequest> Light(const std::string& tenant, int count) {
  std::vector<SimulatedRequest> requests;
  for (int i = 0; i < count; ++i) {
    requests.push_back(RequestOf(tenant, (i + 1) * kSecondUs / 2, 64, 16));
  }
  return requests;
}

int64_t Percentile99(std::vector<int64_t> values) {
  std::sort(values.begin(), values.end());
  return values.at(static_cast<size_t>(std::ceil(0.99 * static_cast<double>(values.size()))) - 1);
}

struct Outcome {
  std::map<std::string, std::vector<int64_t>> ttft_us;  // by tenant
  int64_t end_us = 0;
  double longest_step_us = 0.0;
  int64_t num_preemptions = 0;
};

Outcome Simulate(const SimulationOptions& options, std::vector<SimulatedRequest> requests) {
  SortByArrival(&requests);
  LoadSimulation simulation(options);
  Outcome outcome;
  simulation.core().set_plan_observer([&](const StepPlan& plan) {
    const double keys = static_cast<double>(plan.cost.kv_read_tokens);
    outcome.longest_step_us =
        std::max(outcome.longest_step_us,
                 options.device.step_us +
                     options.device.token_us * static_cast<double>(plan.cost.num_tokens) +
                     options.device.key_us * keys);
  });
  const std::vector<SimulatedResult> results = simulation.Run(requests);
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_GE(results[i].end_us, 0) << "request " << i << " of " << requests[i].tenant;
    outcome.ttft_us[requests[i].tenant].push_back(results[i].ttft_us);
    outcome.end_us = std::max(outcome.end_us, results[i].end_us);
  }
  outcome.num_preemptions = simulation.stats().preemptions.value();
  return outcome;
}

TEST(FairnessTest, ALightTenantHardlyWaitsForAFlood) {
  const std::vector<SimulatedRequest> light = Light("light", 100);
  const int64_t alone = Percentile99(Simulate(Options(), light).ttft_us["light"]);
  std::vector<SimulatedRequest> both = Flood("flood", 2500);
  both.insert(both.end(), light.begin(), light.end());
  const Outcome outcome = Simulate(Options(), both);
  const int64_t beside = Percentile99(outcome.ttft_us.at("light"));
  std::printf(
      "light tenant: p99 TTFT %.1f ms alone, %.1f ms beside the flood; longest step %.1f ms\n",
      alone / 1e3, beside / 1e3, outcome.longest_step_us / 1e3);
  EXPECT_LE(static_cast<double>(beside),
            1.3 * static_cast<double>(alone) + 2 * outcome.longest_step_us);
  // First come first served, it waits for slots.
  for (SimulatedRequest& request : both) request.tenant = "one";
  const std::vector<int64_t> waits = Simulate(Options(), both).ttft_us.at("one");
  EXPECT_GT(Percentile99(waits), 100 * beside);
}

TEST(FairnessTest, FairnessCostsLittleThroughput) {
  std::vector<SimulatedRequest> requests = Flood("a", 1000);
  for (SimulatedRequest& request : Flood("b", 1000)) requests.push_back(request);
  for (int i = 0; i < 400; ++i) requests.push_back(RequestOf("c", i * 20 * kMsUs, 900, 40));
  const Outcome fair = Simulate(Options(), requests);
  for (SimulatedRequest& request : requests) request.tenant = "one";
  const Outcome fifo = Simulate(Options(), requests);
  std::printf("time for all: %.3f of first come first served, %lld preemptions\n",
              static_cast<double>(fair.end_us) / static_cast<double>(fifo.end_us),
              static_cast<long long>(fair.num_preemptions));
  EXPECT_LE(static_cast<double>(fair.end_us), static_cast<double>(fifo.end_us) / 0.95);
}

// While two tenants wait, what they have used for their weights differs by the largest prompt or by
// what the sequences of a full engine still cost, as in VTC.
TEST(FairnessTest, TheCountersOfTenantsThatWaitStayClose) {
  SimulationOptions options = Options();
  options.engine.max_num_seqs = 16;
  options.engine.tenants["heavy"].weight = 3;
  std::vector<SimulatedRequest> requests;
  for (int i = 0; i < 1500; ++i) requests.push_back(RequestOf("heavy", 0, 300, 20));
  for (int i = 0; i < 1500; ++i) requests.push_back(RequestOf("light", 0, 40, 60));
  LoadSimulation simulation(options);
  double largest = 0.0;
  double used[2] = {};
  simulation.core().set_plan_observer([&](const StepPlan&) {
    int64_t waiting[2] = {};
    for (const Sequence* s : simulation.core().scheduler().Waiting()) ++waiting[s->tenant];
    if (waiting[0] == 0 || waiting[1] == 0) return;
    const TenantAccounts& accounts = simulation.core().scheduler().tenants();
    for (const int tenant : {0, 1}) used[tenant] = accounts.used_us(tenant);
    largest = std::max(largest, std::abs(used[0] - used[1]));
  });
  simulation.Run(requests);
  // A prompt of 300 tokens takes 18 ms, and 16 streams of 60 tokens take 60 steps of about 5 ms.
  constexpr double kBoundUs = 60 * 5.2 * kMsUs;
  std::printf("counters differ by %.1f ms at most, bound %.1f ms, after %.1f s\n", largest / 1e3,
              kBoundUs / 1e3, used[0] / 1e6);
  EXPECT_GT(used[0], 10 * kBoundUs) << "the run is too short";
  EXPECT_LE(largest, kBoundUs);
}

TEST(FairnessTest, WeightsDivideTheDevice) {
  SimulationOptions options = Options();
  options.engine.tenants["three"].weight = 3;
  std::vector<SimulatedRequest> requests;
  for (int i = 0; i < 4000; ++i) {
    requests.push_back(RequestOf(i % 2 == 0 ? "three" : "one", 0, 128, 64));
  }
  LoadSimulation simulation(options);
  const std::vector<SimulatedResult> results = simulation.Run(requests, 20 * kSecondUs);
  std::map<std::string, int> ended;
  for (size_t i = 0; i < requests.size(); ++i) {
    if (results[i].end_us >= 0) ++ended[requests[i].tenant];
  }
  EXPECT_GT(ended["one"], 100);
  EXPECT_NEAR(static_cast<double>(ended["three"]) / ended["one"], 3.0, 0.3);
}

// A tenant that sends one long request after the other cannot get more than its share by having
// nothing to wait for between them.
TEST(FairnessTest, LeavingAndComingBackGivesNoCredit) {
  SimulationOptions options = Options();
  options.engine.max_num_seqs = 1;
  // Device time of a request of each: chunks of at most 512 tokens, then three more steps.
  constexpr double kSteadyMs = 4 + 100 * 0.06 + 3 * 4.1;
  constexpr double kHopperMs = 4 * 4 + 2000 * 0.06 + 3 * 4.1;
  std::vector<SimulatedRequest> requests;
  for (int i = 0; i < 1000; ++i) requests.push_back(RequestOf("steady", 0, 100, 4));
  for (int i = 0; i < 45; ++i) requests.push_back(RequestOf("hopper", i * 200 * kMsUs, 2000, 4));
  SortByArrival(&requests);
  LoadSimulation simulation(options);
  const std::vector<SimulatedResult> results = simulation.Run(requests, 9 * kSecondUs);
  double steady_ms = 0.0;
  double hopper_ms = 0.0;
  for (size_t i = 0; i < requests.size(); ++i) {
    if (results[i].end_us < 0) continue;
    (requests[i].tenant == "steady" ? steady_ms : hopper_ms) +=
        requests[i].tenant == "steady" ? kSteadyMs : kHopperMs;
  }
  std::printf("steady %.0f ms, hopper %.0f ms\n", steady_ms, hopper_ms);
  EXPECT_NEAR(steady_ms / hopper_ms, 1.0, 0.15);
}

TEST(FairnessTest, ALimitOfRunningSequencesBlocksItsTenantOnly) {
  SimulationOptions options = Options();
  options.engine.tenants["limited"].max_running = 3;
  std::vector<SimulatedRequest> requests;
  for (int i = 0; i < 60; ++i) requests.push_back(RequestOf("limited", 0, 64, 32));
  for (int i = 0; i < 60; ++i) requests.push_back(RequestOf("free", 0, 64, 32));
  LoadSimulation simulation(options);
  int64_t most[2] = {};
  simulation.core().set_plan_observer([&](const StepPlan&) {
    int64_t running[2] = {};
    for (const Sequence* s : simulation.core().scheduler().Running()) ++running[s->tenant];
    for (const int tenant : {0, 1}) most[tenant] = std::max(most[tenant], running[tenant]);
  });
  const std::vector<SimulatedResult> results = simulation.Run(requests);
  for (const SimulatedResult& result : results) EXPECT_GE(result.end_us, 0);
  EXPECT_EQ(most[0], 3);
  EXPECT_EQ(most[1], 60);
  EXPECT_LT(results[119].end_us, results[59].end_us / 4);
}

TEST(FairnessTest, TenantsTakeTurnsWhateverTheirArrivals) {
  SimulationOptions options = Options();
  options.engine.max_num_seqs = 1;
  std::vector<SimulatedRequest> requests;
  for (int i = 0; i < 20; ++i) requests.push_back(RequestOf("early", 0, 64, 8));
  for (int i = 0; i < 20; ++i) requests.push_back(RequestOf("late", 1, 64, 8));
  LoadSimulation simulation(options);
  const std::vector<SimulatedResult> results = simulation.Run(requests);
  EXPECT_LT(results[20].end_us, results[2].end_us) << "the first of the late tenant";
  EXPECT_LT(results[29].end_us, results[12].end_us);
  EXPECT_LT(results[9].end_us, results[32].end_us);
}

}  // namespace
}  // namespace tessera::testing
