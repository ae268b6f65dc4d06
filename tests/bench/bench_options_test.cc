// Tests of the command line of tessera-bench.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "bench/serve/options.h"

namespace tessera::bench {
namespace {

void ExpectRefused(const std::vector<std::string>& words, const std::string& part) {
  BenchOptions options;
  const absl::StatusOr<Action> action = ParseOptions(words, &options);
  ASSERT_FALSE(action.ok()) << part;
  EXPECT_NE(action.status().message().find(part), absl::string_view::npos) << action.status();
}

TEST(OptionsTest, Defaults) {
  BenchOptions options;
  ASSERT_TRUE(ParseOptions({"--concurrency", "4", "--server", "127.0.0.1:1"}, &options).ok());
  EXPECT_EQ(options.connection.server, "127.0.0.1:1");
  EXPECT_EQ(options.load.concurrency, 4);
  EXPECT_EQ(options.load.rate, 0);
  EXPECT_EQ(options.load.duration_seconds, 60);
  EXPECT_EQ(options.workload.input.min, 128);
  EXPECT_EQ(options.workload.output.max, 64);
  EXPECT_TRUE(options.client.base.stopping().ignore_eos());
  EXPECT_EQ(options.client.base.sampling().temperature(), 0);
  EXPECT_FALSE(options.slo.ttft_ms.has_value());
  EXPECT_EQ(options.tenant, "");
  EXPECT_EQ(options.connection.token, "");
  EXPECT_FALSE(options.connection.tls);
}

TEST(OptionsTest, AllThatCanBeGiven) {
  BenchOptions options;
  const absl::StatusOr<Action> action =
      ParseOptions({"--rate=2.5", "--arrivals=uniform", "--num-requests=9", "--workload=prefix",
                    "--input-tokens=5:9", "--output-tokens=3", "--num-prefixes=2",
                    "--prefix-tokens=70", "--slo-ttft=200", "--slo-itl=12.5", "--warmup=0",
                    "--seed=11", "--vocab-size=99", "--timeout=3", "--json=/tmp/x.json", "--quiet",
                    "--model=small", "--temperature=0.5", "--bypass-prefix"},
                   &options);
  ASSERT_TRUE(action.ok()) << action.status();
  EXPECT_EQ(options.load.rate, 2.5);
  EXPECT_EQ(options.load.arrivals, ArrivalKind::kUniform);
  EXPECT_EQ(options.load.num_requests, 9);
  EXPECT_EQ(options.load.duration_seconds, 0);  // the number of requests ends the run
  EXPECT_EQ(options.load.num_warmup, 0);
  EXPECT_EQ(options.load.seed, 11u);
  EXPECT_EQ(options.workload.seed, 11u);
  EXPECT_EQ(options.workload.kind, WorkloadKind::kPrefix);
  EXPECT_EQ(options.workload.input.max, 9);
  EXPECT_EQ(options.workload.num_prefixes, 2);
  EXPECT_EQ(options.workload.prefix.min, 70);
  EXPECT_EQ(options.workload.vocab_size, 99);
  EXPECT_EQ(*options.slo.ttft_ms, 200);
  EXPECT_EQ(*options.slo.itl_ms, 12.5);
  EXPECT_EQ(options.client.deadline_seconds, 3);
  EXPECT_EQ(options.client.base.model(), "small");
  EXPECT_EQ(options.client.base.sampling().temperature(), 0.5F);
  EXPECT_EQ(options.client.base.sampling().seed(), 11u);
  EXPECT_TRUE(options.client.base.cache().bypass_prefix());
  EXPECT_TRUE(options.quiet);
}

TEST(OptionsTest, TheConnectionIsThatOfTheClientAndTheTenantIsALabel) {
  BenchOptions options;
  ASSERT_TRUE(ParseOptions({"--concurrency=4", "--tls", "--tenant=blue"}, &options).ok());
  EXPECT_TRUE(options.connection.tls);
  EXPECT_EQ(options.connection.ca, "");
  EXPECT_EQ(options.tenant, "blue");
}

TEST(OptionsTest, RefusalsSayWhatToChange) {
  ExpectRefused({}, "give either --concurrency C (closed loop) or --rate R (open loop)");
  ExpectRefused({"--concurrency", "1", "--rate", "1"}, "give either");
  ExpectRefused({"--concurrency", "0"}, "--concurrency is '0'; give 1 to");
  ExpectRefused({"--rate", "-1"}, "--rate is '-1'; give a number above 0");
  ExpectRefused({"--rate", "nan"}, "--rate is 'nan'");
  ExpectRefused({"--rate", "fast"}, "give a number");
  ExpectRefused({"--concurrency", "1", "--arrivals", "uniform"}, "--arrivals is for --rate");
  ExpectRefused({"--rate", "1", "--arrivals", "bursty"}, "give poisson or uniform");
  ExpectRefused({"--concurrency", "1", "--duration", "0"}, "--duration");
  ExpectRefused({"--concurrency", "1", "--prefix-tokens", "5"}, "is for --workload prefix");
  ExpectRefused({"--concurrency", "1", "--output-tokens", "0"}, "--output-tokens is '0'");
  ExpectRefused({"--concurrency", "1", "now"}, "'now' is no flag");
  ExpectRefused({"--concurrency", "1", "--tenant="}, "--tenant is empty; give a name");
  ExpectRefused({"--concurrency", "1", "--token-file", "/no/such/file"},
                "--token-file: /no/such/file: No such file");
  ExpectRefused({"--nonsense"}, "unknown flag");
}

TEST(OptionsTest, WhatComesLaterIsRefusedByName) {
  for (const char* workload : {"sharegpt", "trace", "sonnet", "lora"}) {
    ExpectRefused({"--workload", workload, "--concurrency", "1"},
                  std::string("--workload ") + workload + " comes in a later release");
  }
  ExpectRefused({"--concurrency", "1", "--html", "x"}, "--html comes in a later release");
  ExpectRefused({"--replay-speed", "2"}, "--replay-speed comes in a later release");
  ExpectRefused({"--trace", "f", "--rate", "2"}, "--trace comes in a later release");
}

TEST(OptionsTest, HelpNamesTheFlags) {
  BenchOptions options;
  EXPECT_EQ(*ParseOptions({"--help"}, &options), Action::kHelp);
  EXPECT_EQ(*ParseOptions({"--version"}, &options), Action::kVersion);
  for (const char* flag : {"--rate", "--slo-itl", "--temperature", "--server", "--num-prefixes",
                           "--token-file", "--tls-ca", "--tls-cert", "--tls-key", "--tenant"}) {
    EXPECT_NE(HelpText().find(flag), std::string::npos) << flag;
  }
}

}  // namespace
}  // namespace tessera::bench
