#include "tests/server/attacks_fixture.h"

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <iostream>
#include <thread>
#include <utility>

#include "tests/lib/http_client.h"

namespace tessera::testing {
namespace {

constexpr int64_t kMaxHeapGrowth = int64_t{64} << 20;
// glibc keeps memory that was in use.
constexpr int64_t kMaxResidentGrowth = int64_t{96} << 20;
// A probe takes 100 ms at most on a quiet machine.
constexpr std::chrono::milliseconds kMaxProbe(800);

int64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t total = 0;
  int64_t resident = 0;
  statm >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

// The bytes of the heap that are in use.
int64_t HeapBytes() {
  const struct mallinfo2 info = mallinfo2();
  return static_cast<int64_t>(info.uordblks + info.hblkhd);
}

// Makes `count` objects and returns the bytes of the heap that each of them takes.
int64_t BytesOfEach(int count, const std::function<void()>& make) {
  make();  // the first one makes what stays in memory
  const int64_t before = HeapBytes();
  for (int i = 0; i < count; ++i) make();
  return (HeapBytes() - before) / count;
}

// Runs a handshake.
void Open(TlsClient* client, TlsStream* stream) {
  while (stream->state() == TlsStream::State::kHandshake) {
    const std::string wire = client->TakeWire();
    std::vector<char> plain(wire.size() + TlsStream::kMaxRecordBytes);
    std::string out;
    stream->Receive(wire, plain.data(), &out, 0);
    client->Receive(out);
  }
  EXPECT_EQ(stream->state(), TlsStream::State::kOpen) << stream->error();
}

bool IsOk(const std::string& answer) { return answer.rfind("HTTP/1.1 200", 0) == 0; }

}  // namespace

std::string NewCall(uint32_t stream, uint8_t flags) {
  return Frame(FrameType::kHeaders, flags, stream, CallHeaders(kGenerate));
}

AttacksFixture::AttacksFixture(bool encrypted) {
  if (!encrypted) return;
  tls_ = std::make_unique<TlsPair>();
  constexpr int kCount = 20;
  std::vector<std::unique_ptr<TlsClient>> clients;
  std::vector<std::unique_ptr<TlsStream>> streams;
  clients.reserve(kCount + 1);
  streams.reserve(kCount + 1);
  client_bytes_ = BytesOfEach(kCount, [&] {
    TlsStream stream(tls_->server, 0);
    Open(clients.emplace_back(std::make_unique<TlsClient>(tls_->client)).get(), &stream);
  });
  stream_bytes_ = BytesOfEach(kCount, [&] {
    TlsClient client(tls_->client);
    auto& stream = *streams.emplace_back(std::make_unique<TlsStream>(tls_->server, 0));
    Open(&client, &stream);
    // A record that has arrived in part occupies the memory of the largest one.
    client.Send("text");
    const std::string wire = client.TakeWire();
    std::vector<char> plain(wire.size() + TlsStream::kMaxRecordBytes);
    std::string out;
    stream.Receive(absl::string_view(wire).substr(0, wire.size() - 1), plain.data(), &out, 0);
  });
}

int64_t AttacksFixture::TlsBytes() const {
  const int64_t num_clients = HostileHttp2::num_with_tls();
  const int64_t num_streams = std::min<int64_t>(num_clients, door_stats_.open.value());
  return num_clients * client_bytes_ + num_streams * stream_bytes_;
}

void AttacksFixture::TearDown() {
  metrics_.reset();  // it reads what the fixture owns
  ServerTest::TearDown();
}

void AttacksFixture::Restart(ServerOptions options) {
  options.door_stats = &door_stats_;
  metrics_.reset();
  if (tls_ != nullptr) options.door.tls = tls_->server;
  Start({}, options);
  auto metrics = StartMetrics("127.0.0.1:0", "test");
  ASSERT_TRUE(metrics.ok()) << metrics.status();
  metrics_ = *std::move(metrics);
  models_[0].name = "m";
  models_[0].layout.groups.resize(1);
  MetricsSources sources;
  sources.engine = &engine_stats_;
  sources.models = &models_;
  sources.context = context_.get();
  sources.door = &door_stats_;
  sources.adapters = adapters_.get();
  sources.max_num_seqs = 1;
  sources.slab_bytes = 1;
  sources.live = [] { return true; };
  metrics_->Publish(std::move(sources));
  health_ = grpc::health::v1::Health::NewStub(NewChannel());
  grpc::health::v1::HealthCheckResponse response;
  EXPECT_TRUE(health_->Check(NewContext().get(), {}, &response).ok());
  // The first calls and connections make what stays in memory.
  for (int i = 0; i < 20; ++i) {
    const auto client = Attacker();
    client->Send(Http2Hello() + NewCall(1));
    EXPECT_FALSE(client->Read(9).empty());
    v1::TokenizeResponse response;
    v1::TokenizeRequest request;
    request.set_text("hello");
    EXPECT_TRUE(stub_->Tokenize(NewContext().get(), request, &response).ok());
  }
}

std::shared_ptr<grpc::Channel> AttacksFixture::ClientChannel(const std::string& address) const {
  auto credentials = grpc::InsecureChannelCredentials();
  grpc::ChannelArguments arguments = ChannelArguments();
  if (tls_ != nullptr) {
    grpc::SslCredentialsOptions options;
    options.pem_root_certs = tls_->authority.pem();
    options.pem_private_key = tls_->client_key.key;
    options.pem_cert_chain = tls_->client_key.certificate;
    credentials = grpc::SslCredentials(options);
    arguments.SetSslTargetNameOverride("localhost");  // a name in the server's certificate
  }
  return grpc::CreateCustomChannel(address.empty() ? server_->address() : address, credentials,
                                   arguments);
}

void AttacksFixture::ExpectHarmless(const std::function<void()>& attack) {
  using Clock = std::chrono::steady_clock;
  const int64_t heap_before = HeapBytes();
  const int64_t resident_before = ResidentBytes();
  std::atomic<bool> ended{false};
  int64_t heap_growth = 0;
  int64_t resident_growth = 0;
  // Repeats the calls until the attack ends; returns how long each took, in order of length.
  const auto repeat = [&](const std::vector<std::function<void()>>& calls) {
    std::vector<Clock::duration> took;
    do {
      for (const auto& call : calls) {
        const auto begin = Clock::now();
        call();
        took.push_back(Clock::now() - begin);
      }
    } while (!ended.load());
    std::sort(took.begin(), took.end());
    return took;
  };
  std::thread bystander([&] {
    const auto took = repeat({[&] {
      v1::TokenizeRequest request;
      request.set_text("hello");
      v1::TokenizeResponse response;
      const grpc::Status status = stub_->Tokenize(NewContext().get(), request, &response);
      EXPECT_TRUE(status.ok()) << status.error_message();
      heap_growth = std::max(heap_growth, HeapBytes() - heap_before - TlsBytes());
      resident_growth = std::max(resident_growth, ResidentBytes() - resident_before);
    }});
    EXPECT_LE(took.back(), kMaxLatency);
  });
  std::thread kubelet([&] {
    const auto get = [&](const char* path) {
      return [this, path] { EXPECT_TRUE(IsOk(HttpGet(metrics_->address(), path))) << path; };
    };
    const auto check = [&] {
      grpc::health::v1::HealthCheckResponse response;
      EXPECT_TRUE(health_->Check(NewContext().get(), {}, &response).ok());
      EXPECT_EQ(response.status(), grpc::health::v1::HealthCheckResponse::SERVING);
    };
    const auto took = repeat({check, get("/healthz"), get("/readyz"), get("/metrics")});
    const auto most = took[took.size() * 95 / 100];
    const auto us = [](auto d) { return std::chrono::duration_cast<std::chrono::microseconds>(d); };
    std::cout << took.size() << " probes: 95 % within " << us(most).count() << " us, all within "
              << us(took.back()).count() << " us\n";
    EXPECT_LE(most, kMaxProbe);
    EXPECT_LE(took.back(), kMaxLatency);
  });
  attack();
  ended.store(true);
  bystander.join();
  kubelet.join();
  if (tls_ != nullptr) std::cout << client_bytes_ << " and " << stream_bytes_ << " bytes for TLS\n";
  std::cout << "the heap grew by " << (heap_growth >> 10) << " KiB, the process by "
            << (resident_growth >> 10) << " KiB\n";
  EXPECT_LE(heap_growth, kMaxHeapGrowth);
  EXPECT_LE(resident_growth, kMaxResidentGrowth);
  RecordProperty("heap_growth", std::to_string(heap_growth));
  RecordProperty("resident_growth", std::to_string(resident_growth));
}

}  // namespace tessera::testing
