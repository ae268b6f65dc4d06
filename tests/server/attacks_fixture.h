// The fixture of tests that attack the gRPC port of a real server: while an attack runs, another
// client is answered all the time, health, readiness and metrics answer, and the process does not
// grow. These tests do not run under the sanitizers, which need memory of their own.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "grpc/health/v1/health.grpc.pb.h"
#include "scheduler/step/engine.h"
#include "server/door/door_stats.h"
#include "server/metrics/metrics.h"
#include "tests/lib/hostile_http2.h"
#include "tests/lib/tls_client.h"
#include "tests/server/server_fixture.h"

namespace tessera::testing {

inline constexpr char kGenerate[] = "/tessera.v1.Inference/Generate";
inline constexpr char kTokenize[] = "/tessera.v1.Inference/Tokenize";

// A call of another client takes a second at most on a quiet machine; test machines are busy.
inline constexpr std::chrono::seconds kMaxLatency(8);

// The frame that begins a call of Generate.
std::string NewCall(uint32_t stream, uint8_t flags = kFlagEndHeaders);

class AttacksFixture : public ServerTest {
 protected:
  // `encrypted`: the port has TLS and asks for a client's certificate. Attackers have one too.
  explicit AttacksFixture(bool encrypted);
  void SetUp() override { Restart({}); }
  void TearDown() override;

  void Restart(ServerOptions options);
  // A channel to the server, or to this address of it.
  std::shared_ptr<grpc::Channel> ClientChannel(const std::string& address = "") const;
  std::shared_ptr<grpc::Channel> NewChannel() const override { return ClientChannel(); }
  std::unique_ptr<HostileHttp2> Attacker() const {
    return std::make_unique<HostileHttp2>(server_->address(), client_tls());
  }
  // Null: without TLS.
  const TlsClientContext* client_tls() const { return tls_ == nullptr ? nullptr : &tls_->client; }

  // Runs the attack while another client calls without pause and a third asks all probes.
  void ExpectHarmless(const std::function<void()>& attack);
  // The heap's bytes that TLS itself takes for all attackers. They are no growth by an attack: each
  // connection has a bounded number of them (tls_test.cc), and the door bounds the connections.
  int64_t TlsBytes() const;
  int64_t Closed(CloseReason reason) const {
    return door_stats_.closed[static_cast<size_t>(reason)].value();
  }

  std::unique_ptr<TlsPair> tls_;  // null: without TLS
  // The heap's bytes that TLS takes after the handshake: for an attacker, and at the server's end
  // while a record has arrived in part.
  int64_t client_bytes_ = 0;
  int64_t stream_bytes_ = 0;
  DoorStats door_stats_;
  const EngineStats engine_stats_{1};
  std::vector<EngineModel> models_{1};
  std::unique_ptr<MetricsServer> metrics_;
  std::unique_ptr<grpc::health::v1::Health::Stub> health_;
};

}  // namespace tessera::testing
