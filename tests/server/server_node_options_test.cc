// Tests that every key of the configuration sets its option, in the option's unit.
#include "server/node_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "tessera/v1/config.pb.h"

namespace tessera {
namespace {

TEST(NodeOptions, EngineKeysReachTheEngineInItsUnits) {
  v1::Config config;
  v1::EngineConfig& engine = *config.mutable_engine();
  engine.set_max_num_seqs(11);
  engine.set_max_num_batched_tokens(22);
  engine.set_max_queue(33);
  engine.set_max_queue_delay_ms(55);
  engine.set_target_step_ms(44);
  engine.set_target_step_ratio(5);
  engine.set_ageing_ms(66);
  engine.set_queue_policy("early_abort");
  engine.set_early_abort_ms(777);
  engine.set_deployment_secret("secret");
  config.mutable_adapters()->set_host_bytes(88);
  config.mutable_adapters()->set_load_timeout_seconds(9);
  const EngineOptions options = OptionsOf(config).engine;
  EXPECT_EQ(options.max_num_seqs, 11);
  EXPECT_EQ(options.max_num_batched_tokens, 22);
  EXPECT_EQ(options.max_queue, 33);
  EXPECT_EQ(options.max_queue_delay_us, 55'000);
  EXPECT_EQ(options.target_step_us, 44'000);
  EXPECT_EQ(options.target_step_ratio, 5);
  EXPECT_EQ(options.ageing_us, 66'000);
  EXPECT_EQ(options.queue_policy, QueuePolicyKind::kEarlyAbort);
  EXPECT_EQ(options.early_abort_us, 777'000);
  EXPECT_EQ(options.deployment_secret, "secret");
  EXPECT_EQ(options.adapter_host_bytes, 88);
  EXPECT_EQ(options.max_adapter_read_us, 9'000'000);
}

TEST(NodeOptions, LimitsReachTheGrpcPort) {
  v1::LimitsConfig limits;
  const DoorOptions defaults = DoorOptionsOf(limits);
  EXPECT_EQ(defaults.max_connections, 0);  // computed from the limit of descriptors
  EXPECT_EQ(defaults.guard.max_streams, 1024);
  EXPECT_EQ(defaults.guard.max_header_block_bytes, 16 << 10);
  EXPECT_EQ(defaults.guard.max_resets_per_second, 500);
  EXPECT_EQ(defaults.max_incoming_bytes, 128 << 20);
  limits.set_max_connections(11);
  limits.set_max_connections_per_address(22);
  limits.set_max_streams_per_connection(33);
  limits.set_max_header_block_bytes(4444);
  limits.set_max_resets_per_second(55);
  limits.set_max_incoming_bytes(666);
  const DoorOptions options = DoorOptionsOf(limits);
  EXPECT_EQ(options.max_connections, 11);
  EXPECT_EQ(options.max_connections_per_address, 22);
  EXPECT_EQ(options.guard.max_streams, 33);
  EXPECT_EQ(options.guard.max_header_block_bytes, 4444);
  EXPECT_EQ(options.guard.max_resets_per_second, 55);
  EXPECT_EQ(options.max_incoming_bytes, 666);
}

TEST(NodeOptions, DeviceKeysReachTheDevice) {
  v1::Config config;
  v1::ModelConfig& model = *config.add_models();
  model.set_name("m");
  model.set_path("/models/m");
  v1::EngineConfig& engine = *config.mutable_engine();
  engine.set_device("ref");
  engine.set_threads(3);
  engine.set_dtype("int4");
  engine.set_activations("bfloat16");
  engine.set_kv_cache_dtype("int8");
  engine.set_kv_cache_bytes(1 << 20);
  engine.set_max_model_len(500);
  engine.set_pack_cache("/cache");
  engine.set_pack_cache_bytes(2 << 20);
  config.mutable_adapters()->set_dtype("bfloat16");
  const AssembleOptions options = OptionsOf(config);
  ASSERT_EQ(options.models.size(), 1u);
  EXPECT_EQ(options.models[0].name, "m");
  EXPECT_EQ(options.backend, "ref");
  EXPECT_EQ(options.num_threads, 3);
  EXPECT_EQ(options.weight_dtype, WeightDtype::kI4);
  EXPECT_EQ(options.activations, ActivationDtype::kBF16);
  EXPECT_EQ(options.kv_dtype, KvDtype::kI8);
  EXPECT_EQ(options.kv_cache_bytes, 1 << 20);
  EXPECT_EQ(options.max_model_len, 500);
  EXPECT_EQ(options.pack_cache.dir, "/cache");
  EXPECT_EQ(options.pack_cache.max_bytes, 2 << 20);
  EXPECT_EQ(options.adapter_dtype, AdapterDtype::kBF16);
}

TEST(NodeOptions, ClientsMayRegisterBelowTheRootsOrTheFoldersOfTheConfiguration) {
  v1::AdaptersConfig adapters;
  EXPECT_TRUE(AdapterRootsOf(adapters).empty());
  adapters.add_paths("small=/a/b");
  adapters.add_paths("/c");
  EXPECT_EQ(AdapterRootsOf(adapters), (std::vector<std::string>{"/a/b", "/c"}));
  adapters.add_roots("/d");
  EXPECT_EQ(AdapterRootsOf(adapters), std::vector<std::string>{"/d"});
}

// The device ref computes on one thread.
TEST(NodeOptions, ThreadsThatTheDeviceDoesNotUseAreRefused) {
  v1::Config config;
  config.mutable_engine()->set_device("ref");
  config.mutable_engine()->set_threads(1);
  EXPECT_TRUE(CheckOptions(config).ok());
  config.mutable_engine()->set_threads(2);
  const absl::Status refused = CheckOptions(config);
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(refused.message().find("engine.threads is 2"), absl::string_view::npos) << refused;
}

TEST(NodeOptions, KeysThatAnotherKeyTurnsOffAreRefused) {
  const auto refusal = [](const std::function<void(v1::EngineConfig*)>& change) {
    v1::Config config;
    change(config.mutable_engine());
    const absl::Status status = CheckOptions(config);
    EXPECT_TRUE(status.ok() || status.code() == absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  };
  using ::testing::StartsWith;
  EXPECT_THAT(refusal([](auto* e) { e->set_pack_cache_bytes(2 << 20); }),
              StartsWith("engine.pack_cache_bytes has no effect without engine.pack_cache"));
  EXPECT_EQ(refusal([](auto* e) {
              e->set_pack_cache_bytes(2 << 20);
              e->set_pack_cache("/cache");
            }),
            "");
  EXPECT_THAT(refusal([](auto* e) { e->set_early_abort_ms(600); }),
              StartsWith("engine.early_abort_ms has no effect without engine.queue_policy"));
  EXPECT_THAT(refusal([](auto* e) {
                e->set_early_abort_ms(600);
                e->set_queue_policy("priority");
              }),
              StartsWith("engine.early_abort_ms has no effect without engine.queue_policy"));
  EXPECT_EQ(refusal([](auto* e) {
              e->set_early_abort_ms(600);
              e->set_queue_policy("early_abort");
            }),
            "");
  for (const bool is_delay : {false, true}) {
    EXPECT_THAT(refusal([&](auto* e) {
                  e->set_queue_policy("early_abort");
                  if (is_delay) {
                    e->set_max_queue_delay_ms(500);
                  } else {
                    e->set_ageing_ms(500);
                  }
                }),
                ::testing::HasSubstr("has no effect with engine.queue_policy early_abort"));
  }
}

TEST(NodeOptions, TenantsHaveNamesAndLimits) {
  v1::Config config;
  config.add_tenants()->set_name("chat");
  config.mutable_tenants(0)->set_weight(3);
  config.add_tenants()->set_name("batch");
  config.mutable_tenants(1)->set_max_running(64);
  EXPECT_TRUE(CheckOptions(config).ok());
  const EngineOptions options = OptionsOf(config).engine;
  ASSERT_EQ(options.tenants.size(), 2u);
  EXPECT_EQ(options.tenants.at("chat").weight, 3);
  EXPECT_EQ(options.tenants.at("chat").max_running, 0);
  EXPECT_EQ(options.tenants.at("batch").weight, 1);
  EXPECT_EQ(options.tenants.at("batch").max_running, 64);
  const auto refusal = [&config](const std::function<void(v1::Config*)>& change) {
    v1::Config changed = config;
    change(&changed);
    return std::string(CheckOptions(changed).message());
  };
  using ::testing::HasSubstr;
  EXPECT_THAT(refusal([](auto* c) { c->add_tenants(); }), HasSubstr("has no name"));
  EXPECT_THAT(refusal([](auto* c) { c->add_tenants()->set_name("chat"); }),
              HasSubstr("'chat' twice"));
  EXPECT_THAT(refusal([](auto* c) { c->mutable_engine()->set_queue_policy("early_abort"); }),
              HasSubstr("tenants has no effect"));
}

TEST(NodeOptions, SecurityKeysThatNeedEachOtherAreAskedFor) {
  const std::string hash(64, 'a');
  const auto refusal = [](const std::function<void(v1::SecurityConfig*)>& change) {
    v1::Config config;
    change(config.mutable_security());
    return std::string(CheckOptions(config).message());
  };
  using ::testing::HasSubstr;
  EXPECT_THAT(refusal([](auto* s) { s->mutable_tls()->set_certificate("c"); }),
              HasSubstr("--tls-key"));
  EXPECT_THAT(refusal([](auto* s) { s->mutable_tls()->set_key("k"); }), HasSubstr("--tls-cert"));
  EXPECT_THAT(refusal([](auto* s) { s->mutable_tls()->set_client_ca("a"); }),
              HasSubstr("has no effect without TLS"));
  EXPECT_THAT(refusal([](auto* s) { s->mutable_tls()->set_client_crl("l"); }),
              HasSubstr("without security.tls.client_ca"));
  EXPECT_THAT(refusal([](auto* s) { s->add_identities()->set_certificate_san("n"); }),
              HasSubstr("security.tls.client_ca"));
  EXPECT_THAT(refusal([](auto* s) { s->add_identities(); }),
              HasSubstr("security.identities[0] needs either"));
  EXPECT_EQ(refusal([&](auto* s) { s->add_identities()->set_token_sha256(hash); }), "");
}

TEST(NodeOptions, ACertificateIsOptionalWhereTokensAreKnown) {
  v1::SecurityConfig security;
  EXPECT_FALSE(TlsFilesOf(security).enabled());
  security.mutable_tls()->set_certificate("c");
  security.add_identities()->set_certificate_san("n");
  EXPECT_TRUE(TlsFilesOf(security).enabled());
  EXPECT_FALSE(TlsFilesOf(security).certificate_is_optional);
  security.add_identities()->set_token_sha256("h");
  EXPECT_TRUE(TlsFilesOf(security).certificate_is_optional);
}

TEST(NodeOptions, ServerKeysHaveDefaults) {
  v1::ServerConfig server;
  EXPECT_EQ(ListenAddressOf(server), "127.0.0.1:50051");
  EXPECT_EQ(MetricsAddressOf(server), "127.0.0.1:9464");
  EXPECT_GE(ResponderThreadsOf(server), 2);
  EXPECT_LE(ResponderThreadsOf(server), 4);
  server.set_listen("a:1");
  server.set_metrics_listen("b:2");
  server.set_responder_threads(7);
  EXPECT_EQ(ListenAddressOf(server), "a:1");
  EXPECT_EQ(MetricsAddressOf(server), "b:2");
  EXPECT_EQ(ResponderThreadsOf(server), 7);
}

TEST(NodeOptions, WhatIsNotGivenKeepsItsDefault) {
  const EngineOptions options = OptionsOf(v1::Config()).engine;
  const EngineOptions defaults;
  EXPECT_EQ(options.max_num_seqs, defaults.max_num_seqs);
  EXPECT_EQ(options.max_num_batched_tokens, defaults.max_num_batched_tokens);
  EXPECT_EQ(options.max_queue, defaults.max_queue);
  EXPECT_EQ(options.max_queue_delay_us, defaults.max_queue_delay_us);
  EXPECT_EQ(options.target_step_us, defaults.target_step_us);
  EXPECT_EQ(options.target_step_ratio, defaults.target_step_ratio);
  EXPECT_EQ(options.ageing_us, defaults.ageing_us);
  EXPECT_EQ(options.queue_policy, defaults.queue_policy);
  EXPECT_EQ(options.early_abort_us, defaults.early_abort_us);
}

// Each running stream needs one token in each step, so max_num_seqs must not exceed
// max_num_batched_tokens. If only one of these limits is given, the default of the other limit is
// changed to fit.
TEST(NodeOptions, StreamsAndTokensOfAStepGoTogether) {
  v1::Config few_tokens;
  few_tokens.mutable_engine()->set_max_num_batched_tokens(100);
  EXPECT_EQ(OptionsOf(few_tokens).engine.max_num_seqs, 100);
  v1::Config many_streams;
  many_streams.mutable_engine()->set_max_num_seqs(2000);
  EXPECT_EQ(OptionsOf(many_streams).engine.max_num_batched_tokens, 2000);
  EXPECT_TRUE(CheckOptions(many_streams).ok());
  many_streams.mutable_engine()->set_max_num_batched_tokens(1999);
  const absl::Status refused = CheckOptions(many_streams);
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(refused.message().find("engine.max_num_batched_tokens (1999)"),
            absl::string_view::npos);
}

}  // namespace
}  // namespace tessera
