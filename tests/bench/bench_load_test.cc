// Tests of the load client, the closed loop and the open loop against a server over real sockets.
// The server's generator echoes the prompt, and the tests can hold its answers.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <thread>

#include "bench/serve/load.h"
#include "tests/server/server_fixture.h"

namespace tessera::bench {
namespace {

class LoadTest : public testing::ServerTest {
 protected:
  static WorkloadOptions Words() {
    WorkloadOptions options;
    options.input = {4, 4};
    options.output = {6, 6};
    options.vocab_size = 20;
    return options;
  }

  static ClientOptions Greedy(double deadline_seconds = 20) {
    ClientOptions options;
    options.deadline_seconds = deadline_seconds;
    options.base.mutable_stopping()->set_ignore_eos(true);
    return options;
  }

  RunRecords RunLoad(const LoadOptions& options, const ClientOptions& client = Greedy()) {
    const Workload workload(Words());
    Load load(options, &workload, NewChannel(), client);
    return load.Run();
  }

  // Runs an open loop at a steady rate against a server that holds all answers until `is_held`
  // returns true.
  RunRecords RunHeld(double rate, int64_t num_requests, const char* what,
                     const std::function<bool(const Load&)>& is_held) {
    LoadOptions options;
    options.rate = rate;
    options.arrivals = ArrivalKind::kUniform;
    options.num_requests = num_requests;
    const Workload workload(Words());
    Load load(options, &workload, NewChannel(), Greedy());
    RunRecords run;
    std::thread runner([&] { run = load.Run(); });
    WaitFor(what, [&] { return is_held(load); });
    generator_->Release();
    runner.join();
    return run;
  }

  static int64_t NumOk(const RunRecords& run) {
    return std::count_if(run.requests.begin(), run.requests.end(),
                         [](const RequestRecord& request) { return request.ok(); });
  }

  static void ExpectOrdered(const RequestRecord& request) {
    EXPECT_LE(request.intended_us, request.sent_us);
    ASSERT_FALSE(request.token_us.empty());
    EXPECT_LE(request.sent_us, request.token_us.front());
    EXPECT_TRUE(std::is_sorted(request.token_us.begin(), request.token_us.end()));
    EXPECT_LE(request.token_us.back(), request.end_us);
  }
};

TEST_F(LoadTest, ClosedLoopSendsAllAndNoMore) {
  LoadOptions options;
  options.concurrency = 4;
  options.num_requests = 30;
  options.num_warmup = 3;
  const RunRecords run = RunLoad(options);
  ASSERT_EQ(run.requests.size(), 30u);
  EXPECT_EQ(generator_->num_submitted(), 33);
  for (const RequestRecord& request : run.requests) {
    ASSERT_TRUE(request.ok()) << request.message;
    EXPECT_EQ(request.token_us.size(), 6u);
    EXPECT_EQ(request.prompt_tokens, 4);
    EXPECT_GE(request.intended_us, run.begin_us);
    EXPECT_LE(request.end_us, run.end_us);
    ExpectOrdered(request);
  }
  EXPECT_GT(run.cpu_us, 0);
}

TEST_F(LoadTest, ClosedLoopNeverExceedsItsClients) {
  Start({.held = true}, {});
  LoadOptions options;
  options.concurrency = 3;
  options.num_requests = 5;
  const Workload workload(Words());
  Load load(options, &workload, NewChannel(), Greedy());
  RunRecords run;
  std::thread runner([&] { run = load.Run(); });
  WaitFor("three requests", [&] { return generator_->num_submitted() == 3; });
  EXPECT_EQ(load.Progress().in_flight, 3);
  generator_->Release();
  runner.join();
  EXPECT_EQ(NumOk(run), 5);
  EXPECT_EQ(generator_->max_live(), 3);
  EXPECT_EQ(load.Progress().tokens, 30);
}

TEST_F(LoadTest, ClosedLoopEndsByTime) {
  LoadOptions options;
  options.concurrency = 2;
  options.duration_seconds = 1;
  const RunRecords run = RunLoad(options);
  EXPECT_GT(run.requests.size(), 2u);
  EXPECT_EQ(NumOk(run), static_cast<int64_t>(run.requests.size()));
  for (const RequestRecord& request : run.requests) {
    EXPECT_LT(request.intended_us, run.begin_us + 1'000'000);
  }
}

// An open loop sends requests on time even if the server answers nothing for a while, and measures
// each latency from the time at which the request was due.
TEST_F(LoadTest, OpenLoopSendsOnTimeWhateverTheServerDoes) {
  Start({.held = true}, {});
  RunRecords run = RunHeld(100, 30, "all requests",
                           [&](const Load&) { return generator_->num_submitted() == 30; });
  ASSERT_EQ(NumOk(run), 30);
  std::sort(run.requests.begin(), run.requests.end(),
            [](const auto& a, const auto& b) { return a.intended_us < b.intended_us; });
  for (size_t i = 0; i < run.requests.size(); ++i) {
    EXPECT_EQ(run.requests[i].intended_us, run.begin_us + static_cast<int64_t>(i) * 10'000);
    ExpectOrdered(run.requests[i]);
  }
  const Report report = MakeReport(run, {});
  EXPECT_GE(report.ttft_ms.max, 290);  // the first answer came after the last request was sent
}

TEST_F(LoadTest, OpenLoopEndsByTime) {
  LoadOptions options;
  options.rate = 50;
  options.arrivals = ArrivalKind::kUniform;
  options.duration_seconds = 0.2;
  EXPECT_EQ(NumOk(RunLoad(options)), 10);
}

TEST_F(LoadTest, RefusalsAreCountedAndDoNotEndTheRun) {
  Start({.max_requests = 1, .held = true}, {});
  const RunRecords run = RunHeld(1000, 5, "four refusals",
                                 [](const Load& load) { return load.Progress().errors == 4; });
  const Report report = MakeReport(run, {});
  EXPECT_EQ(report.requests, 5);
  EXPECT_EQ(report.errors, 4);
  EXPECT_EQ(report.errors_by_code.at(absl::StatusCode::kResourceExhausted).count, 4);
}

TEST_F(LoadTest, RefusedClientsPause) {
  Start({.max_requests = 0}, {});
  LoadOptions options;
  options.concurrency = 2;
  options.duration_seconds = 0.25;
  const RunRecords run = RunLoad(options);
  EXPECT_EQ(NumOk(run), 0);
  EXPECT_GE(run.requests.size(), 2u);
  EXPECT_LE(run.requests.size(), 6u);  // each of the 2 clients sends at 0, 100 and 200 ms
}

TEST_F(LoadTest, FailuresAfterAcceptanceAreErrors) {
  Start({.fail = true}, {});
  LoadOptions options;
  options.concurrency = 1;
  options.num_requests = 2;
  const RunRecords run = RunLoad(options);
  ASSERT_EQ(run.requests.size(), 2u);
  for (const RequestRecord& request : run.requests) {
    EXPECT_FALSE(request.ok());
    EXPECT_FALSE(request.abandoned);
    EXPECT_FALSE(request.message.empty());
  }
}

TEST_F(LoadTest, DeadlinesEndWhatIsNotAnswered) {
  Start({.held = true}, {});
  LoadOptions options;
  options.concurrency = 2;
  options.num_requests = 2;
  const RunRecords run = RunLoad(options, Greedy(0.1));
  ASSERT_EQ(run.requests.size(), 2u);
  EXPECT_EQ(run.requests[0].code, absl::StatusCode::kDeadlineExceeded);
}

TEST_F(LoadTest, NobodyThereIsAnError) {
  const auto channel = NewChannel();
  Stop();
  LoadOptions options;
  options.concurrency = 1;
  options.num_requests = 1;
  const Workload workload(Words());
  Load load(options, &workload, channel, Greedy(5));
  const RunRecords run = load.Run();
  ASSERT_EQ(run.requests.size(), 1u);
  EXPECT_EQ(run.requests[0].code, absl::StatusCode::kUnavailable);
}

TEST_F(LoadTest, InterruptAbandonsWhatRunsAndKeepsTheRest) {
  for (const bool open : {false, true}) {
    Start({}, {});
    LoadOptions options;
    open ? options.rate = 200 : options.concurrency = 3;
    const Workload workload(Words());
    Load load(options, &workload, NewChannel(), Greedy());
    RunRecords run;
    std::thread runner([&] { run = load.Run(); });
    WaitFor("some answers", [&] { return load.Progress().ended >= 5; });
    generator_->Hold();
    // The generator may count requests that have ended for the client, so the wait needs three that
    // the generator holds.
    WaitFor("some that wait", [&] { return generator_->num_live() >= 3; });
    load.Interrupt();
    runner.join();
    const Report report = MakeReport(run, {});
    EXPECT_GE(report.requests, 5);
    EXPECT_EQ(report.errors, 0);
    EXPECT_GE(report.abandoned, 3);
    WaitFor("the server to let go", [&] { return generator_->num_live() == 0; });
  }
}

}  // namespace
}  // namespace tessera::bench
