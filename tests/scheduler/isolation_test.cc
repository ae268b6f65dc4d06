// A tenant cannot find out by hits what another tenant has sent, as PromptPeek would (Wu
// et al., I Know What You Asked, NDSS 2025): it sends probes, half of them with a prefix that the
// other tenant's prompts have, and compares their times to the first token. On the simulated device
// equal work takes equal time, so any difference shows.
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/lib/load_simulation.h"

namespace tessera::testing {
namespace {

constexpr int64_t kGapUs = 100'000;  // longer than two requests take
constexpr int kNumProbes = 10'000;
constexpr TokenId kFirstPrefix = 1'000'000;

SimulatedRequest RequestOf(const std::string& tenant, const std::string& salt, int64_t arrival_us,
                           TokenId prefix) {
  SimulatedRequest request;
  request.tenant = tenant;
  request.salt = salt;
  request.arrival_us = arrival_us;
  request.num_prompt_tokens = 96;
  request.num_shared_tokens = 64;
  request.shared_token = prefix;
  return request;
}

// The times to the first token of probes, by {the victim's request is being computed, the probe has
// its prefix}.
using Times = std::map<std::pair<bool, bool>, std::set<int64_t>>;

// Before each probe the victim sends a request with another prefix. Every second probe has that
// prefix. Half of the probes come while the victim's request is being computed, half after it.
Times Probe(const SimulatedRequest& victim, const SimulatedRequest& prober) {
  std::vector<SimulatedRequest> requests;
  for (int i = 0; i < kNumProbes; ++i) {
    const int64_t at_us = (i + 1) * kGapUs;
    const bool is_concurrent = i / 2 % 2 == 0;
    const TokenId prefix = kFirstPrefix + i;
    requests.push_back(
        RequestOf(victim.tenant, victim.salt, at_us - (is_concurrent ? 1 : kGapUs / 2), prefix));
    requests.push_back(
        RequestOf(prober.tenant, prober.salt, at_us, i % 2 == 0 ? prefix : prefix + kNumProbes));
  }
  SimulationOptions options;
  options.engine.max_queue_delay_us = 0;
  LoadSimulation simulation(options);
  const std::vector<SimulatedResult> results = simulation.Run(requests);
  Times times;
  for (int i = 0; i < kNumProbes; ++i) {
    const int64_t ttft_us = results[static_cast<size_t>(2 * i + 1)].ttft_us;
    EXPECT_GT(ttft_us, 0);
    times[{i / 2 % 2 == 0, i % 2 == 0}].insert(ttft_us);
  }
  return times;
}

void ExpectIsolated(const SimulatedRequest& victim, const SimulatedRequest& prober) {
  const Times times = Probe(victim, prober);
  ASSERT_EQ(times.size(), 4u);
  for (const bool is_concurrent : {true, false}) {
    EXPECT_EQ(times.at({is_concurrent, true}), times.at({is_concurrent, false}));
  }
}

TEST(IsolationTest, AnotherTenantsPromptsDoNotShow) {
  ExpectIsolated(RequestOf("victim", "", 0, 0), RequestOf("prober", "", 0, 0));
  ExpectIsolated(RequestOf("victim", "", 0, 0), RequestOf("", "", 0, 0));
  ExpectIsolated(RequestOf("victim", "salt", 0, 0), RequestOf("prober", "salt", 0, 0));
}

TEST(IsolationTest, PromptsUnderAnotherSaltDoNotShow) {
  ExpectIsolated(RequestOf("one", "salt", 0, 0), RequestOf("one", "", 0, 0));
  ExpectIsolated(RequestOf("one", "salt", 0, 0), RequestOf("one", "pepper", 0, 0));
}

// Without this, the tests above would also pass if the simulation showed no hits at all.
TEST(IsolationTest, ATenantsOwnPromptsShow) {
  const Times times = Probe(RequestOf("one", "salt", 0, 0), RequestOf("one", "salt", 0, 0));
  for (const bool is_concurrent : {true, false}) {
    EXPECT_NE(times.at({is_concurrent, true}), times.at({is_concurrent, false}));
  }
  EXPECT_LT(*times.at({false, true}).rbegin(), *times.at({false, false}).begin());
}

}  // namespace
}  // namespace tessera::testing
