// Tests of one stream of TLS against a client in the same thread: bytes in, bytes out, no sockets.
// tls_context_test.cc has the tests of files and certificates.
#include "server/door/tls.h"

#include <gtest/gtest.h>
#include <malloc.h>
#include <openssl/ssl.h>

#include <algorithm>
#include <functional>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/lib/sanitizers.h"
#include "tests/lib/tls_client.h"

namespace tessera::testing {
namespace {

using State = TlsStream::State;

constexpr int64_t kNow = 1'000'000'000;

// Bytes without a pattern that a wrong offset would keep.
std::string RandomBytes(size_t size, uint32_t seed) {
  std::mt19937 random(seed);
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

// Both ends of TLS.
class Wire final {
 public:
  explicit Wire(const TlsClientContext& client, std::shared_ptr<const TlsContext> server)
      : client(client), server(std::move(server), kNow) {}

  // Gives these bytes to the server in pieces of a size that `piece` chooses. Stops when the server
  // takes no more. Returns what they decrypt to.
  std::string Feed(absl::string_view bytes, const std::function<size_t()>& piece) {
    std::string plain;
    while (!bytes.empty() && takes()) {
      const absl::string_view next = bytes.substr(0, piece());
      bytes.remove_prefix(next.size());
      // On the heap and of the exact size, so that the address sanitizer sees each byte too many.
      std::vector<char> buffer(next.size() + TlsStream::kMaxRecordBytes);
      const size_t size = server.Receive(next, buffer.data(), &to_client, now_us);
      EXPECT_LE(size, buffer.size());
      plain.append(buffer.data(), size);
    }
    return plain;
  }
  std::string Feed(absl::string_view bytes) {
    return Feed(bytes, [&bytes] { return bytes.size(); });
  }
  // Moves what both ends want to send, until there is nothing. Returns what the server decrypts.
  std::string Exchange(const std::function<size_t()>& piece) {
    std::string plain;
    while (true) {
      const std::string to_server = client.TakeWire();
      if (to_server.empty() && to_client.empty()) return plain;
      plain += Feed(to_server, piece);
      at_client += client.Receive(std::exchange(to_client, {}));
    }
  }
  std::string Exchange() {
    return Exchange([] { return size_t{1} << 20; });
  }
  // Whether the server may be given bytes.
  bool takes() const {
    return server.state() == State::kHandshake || server.state() == State::kOpen;
  }

  TlsClient client;
  TlsStream server;
  std::string to_client;  // the server's bytes that the client has not taken yet
  std::string at_client;  // what the client has decrypted
  int64_t now_us = kNow;
};

class TlsTest : public ::testing::Test {
 protected:
  std::unique_ptr<Wire> Open() {
    auto wire = std::make_unique<Wire>(pair_.client, pair_.server);
    EXPECT_EQ(wire->Exchange(), "");
    EXPECT_EQ(wire->server.state(), State::kOpen) << wire->server.error();
    EXPECT_TRUE(wire->client.open()) << wire->client.error();
    return wire;
  }

  TlsPair pair_;
};

TEST_F(TlsTest, AnyPiecesGiveTheSameBytesBothWays) {
  const std::string question = RandomBytes(50'000, 1);
  const std::string answer = RandomBytes(70'000, 2);
  for (const size_t size : {size_t{1}, size_t{7}, size_t{1000}, size_t{1} << 20}) {
    const auto piece = [size] { return size; };
    Wire wire(pair_.client, pair_.server);
    EXPECT_EQ(wire.Exchange(piece), "");
    ASSERT_EQ(wire.server.state(), State::kOpen) << wire.server.error();
    wire.client.Send(question);
    EXPECT_EQ(wire.Exchange(piece), question);
    wire.server.Send(answer, &wire.to_client);
    EXPECT_EQ(wire.Exchange(piece), "");
    EXPECT_EQ(wire.at_client, answer);
  }
}

TEST_F(TlsTest, MegabytesInRandomPiecesBothWays) {
  const size_t num_bytes = kSanitized ? 1 << 20 : 8 << 20;
  std::mt19937 random(3);
  const auto piece = [&random] {
    const size_t most = size_t{1} << (random() % 17);
    return 1 + random() % most;
  };
  const std::string question = RandomBytes(num_bytes, 4);
  const std::string answer = RandomBytes(num_bytes, 5);
  const auto wire = Open();
  std::string at_server;
  absl::string_view to_ask = question;
  absl::string_view to_answer = answer;
  while (!to_ask.empty() || !to_answer.empty()) {
    const absl::string_view asked = to_ask.substr(0, piece());
    to_ask.remove_prefix(asked.size());
    wire->client.Send(asked);
    const absl::string_view answered = to_answer.substr(0, piece());
    to_answer.remove_prefix(answered.size());
    wire->server.Send(answered, &wire->to_client);
    at_server += wire->Exchange(piece);
  }
  EXPECT_TRUE(at_server == question);
  EXPECT_TRUE(wire->at_client == answer);
}

TEST_F(TlsTest, ARecordInPartIsKeptUntilItsEnd) {
  const auto wire = Open();
  const std::string text(16'000, 't');
  wire->client.Send(text);
  const std::string record = wire->client.TakeWire();
  EXPECT_EQ(wire->Feed(record.substr(0, record.size() - 1)), "");
  wire->client.Send(text);
  EXPECT_EQ(wire->Feed(record.substr(record.size() - 1) + wire->client.TakeWire()), text + text);
}

TEST_F(TlsTest, NothingToSendIsNothingOnTheWire) {
  const auto wire = Open();
  wire->server.Send("", &wire->to_client);
  EXPECT_EQ(wire->to_client, "");
  EXPECT_EQ(wire->Feed(""), "");
  EXPECT_EQ(wire->server.state(), State::kOpen);
}

TEST_F(TlsTest, ItIsVersion13WithHttp2) {
  const auto wire = Open();
  EXPECT_EQ(wire->client.version(), TLS1_3_VERSION);
  EXPECT_EQ(wire->client.protocol(), "h2");
}

TEST_F(TlsTest, ProtocolsOfTheClient) {
  const auto connect = [this](const std::vector<std::string>& protocols) {
    const TlsClientContext client(TlsClientOptions{
        .ca = pair_.authority.pem(), .certificate = pair_.client_key, .protocols = protocols});
    auto wire = std::make_unique<Wire>(client, pair_.server);
    wire->Exchange();
    return wire;
  };
  EXPECT_EQ(connect({"http/1.1", "h2"})->client.protocol(), "h2");
  const auto silent = connect({});
  EXPECT_EQ(silent->server.state(), State::kOpen) << silent->server.error();
  EXPECT_TRUE(silent->client.open());
  const auto old = connect({"http/1.1"});
  EXPECT_EQ(old->server.state(), State::kFailed);
  EXPECT_EQ(old->server.error(), "no application protocol");
  EXPECT_FALSE(old->client.open());
  EXPECT_EQ(old->client.error(), "tlsv1 alert no application protocol");
}

TEST_F(TlsTest, OlderVersionsAreRefused) {
  const TlsClientContext client(TlsClientOptions{
      .ca = pair_.authority.pem(), .certificate = pair_.client_key, .only_tls12 = true});
  Wire wire(client, pair_.server);
  wire.Exchange();
  EXPECT_EQ(wire.server.state(), State::kFailed);
  EXPECT_EQ(wire.server.error(), "unsupported protocol");
  EXPECT_EQ(wire.client.error(), "tlsv1 alert protocol version");
}

TEST_F(TlsTest, AClientThatHasEndedMayStillReceive) {
  const auto wire = Open();
  wire->client.Send("last");
  wire->client.End();
  EXPECT_EQ(wire->Exchange(), "last");
  EXPECT_EQ(wire->server.state(), State::kEnded);
  wire->server.Send("answer", &wire->to_client);
  wire->server.End(&wire->to_client);
  wire->Exchange();
  EXPECT_EQ(wire->at_client, "answer");
  EXPECT_TRUE(wire->client.ended());
  EXPECT_EQ(wire->server.state(), State::kEnded);
}

TEST_F(TlsTest, AServerThatHasEndedStillReceives) {
  const auto wire = Open();
  wire->server.Send("last", &wire->to_client);
  wire->server.End(&wire->to_client);
  wire->Exchange();
  EXPECT_EQ(wire->at_client, "last");
  EXPECT_TRUE(wire->client.ended());
  wire->client.Send("more");
  EXPECT_EQ(wire->Exchange(), "more");
  EXPECT_EQ(wire->server.state(), State::kOpen);
}

TEST_F(TlsTest, ThereIsNoEndBeforeTheHandshake) {
  Wire wire(pair_.client, pair_.server);
  wire.server.End(&wire.to_client);
  EXPECT_EQ(wire.to_client, "");
  EXPECT_EQ(wire.server.state(), State::kHandshake);
}

TEST_F(TlsTest, ATruncatedStreamIsNotEnded) {
  const auto wire = Open();
  wire->client.Send("the last bytes");
  wire->client.End();
  std::string bytes = wire->client.TakeWire();
  bytes.pop_back();  // the message that the client sends no more is not complete
  EXPECT_EQ(wire->Feed(bytes), "the last bytes");
  EXPECT_EQ(wire->server.state(), State::kOpen);
}

TEST_F(TlsTest, AChangedByteAnywhereInARecordIsNoticed) {
  for (size_t at = 0;; ++at) {
    const auto wire = Open();
    wire->client.Send("sixteen bytes ..");
    std::string record = wire->client.TakeWire();
    if (at == record.size()) break;
    record[at] ^= 1;
    // A record that has become longer is complete with the next one only.
    wire->client.Send(std::string(300, 'n'));
    EXPECT_EQ(wire->Feed(record + wire->client.TakeWire()), "") << at;
    EXPECT_EQ(wire->server.state(), State::kFailed) << at;
    EXPECT_NE(wire->server.error(), "") << at;
    EXPECT_NE(wire->to_client, "") << "the client is told; " << at;
  }
}

TEST_F(TlsTest, ARecordThatComesTwiceIsNoticed) {
  const auto wire = Open();
  wire->client.Send("once");
  const std::string record = wire->client.TakeWire();
  EXPECT_EQ(wire->Feed(record), "once");
  EXPECT_EQ(wire->Feed(record), "");
  EXPECT_EQ(wire->server.state(), State::kFailed);
}

TEST_F(TlsTest, BytesThatAreNotTls) {
  for (const std::string& bytes :
       {std::string("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), std::string("GET / HTTP/1.1\r\n\r\n"),
        std::string(100, '\0'), std::string(100, '\xff'), RandomBytes(100'000, 6)}) {
    Wire wire(pair_.client, pair_.server);
    EXPECT_EQ(wire.Feed(bytes), "");
    EXPECT_EQ(wire.server.state(), State::kFailed) << bytes.substr(0, 20);
    EXPECT_NE(wire.server.error(), "");
  }
}

TEST_F(TlsTest, KeysMayChangeNowAndThen) {
  const auto wire = Open();
  for (int i = 0; i < 200; ++i) {
    wire->client.ChangeKeys();
    wire->client.Send("text");
    wire->now_us += 1'000'000;
    EXPECT_EQ(wire->Exchange(), "text");
    wire->server.Send("answer", &wire->to_client);
    wire->Exchange();
    ASSERT_EQ(wire->server.state(), State::kOpen) << i << " " << wire->server.error();
  }
}

TEST_F(TlsTest, TooManyChangesOfKeysAtOnceFail) {
  const auto wire = Open();
  std::string flood;
  for (int i = 0; i < 1000; ++i) {
    wire->client.ChangeKeys();
    flood += wire->client.TakeWire();
  }
  wire->Feed(flood);
  EXPECT_EQ(wire->server.state(), State::kFailed);
  EXPECT_EQ(wire->server.error(), "too many changes of keys");
  // The answers to the changes before.
  EXPECT_LT(wire->to_client.size(), 4096U);
}

TEST_F(TlsTest, EmptyRecordsWithoutAnEndFail) {
  // A change of the cipher is allowed during the handshake, and means nothing.
  const std::string nothing("\x14\x03\x03\0\1\1", 6);
  std::string flood;
  for (int i = 0; i < 10'000; ++i) flood += nothing;
  Wire wire(pair_.client, pair_.server);
  EXPECT_EQ(wire.Feed(wire.client.TakeWire() + flood), "");
  EXPECT_EQ(wire.server.state(), State::kFailed);
  const auto open = Open();
  EXPECT_EQ(open->Feed(flood), "");
  EXPECT_EQ(open->server.state(), State::kFailed);
}

// A failed stream says no more, whatever it is asked.
TEST_F(TlsTest, AFailureIsFinal) {
  const auto wire = Open();
  wire->Feed(RandomBytes(1000, 7));
  ASSERT_EQ(wire->server.state(), State::kFailed);
  wire->to_client.clear();
  wire->server.End(&wire->to_client);
  EXPECT_EQ(wire->to_client, "");
  EXPECT_EQ(wire->server.state(), State::kFailed);
}

int64_t HeapBytes() {
  const struct mallinfo2 info = mallinfo2();
  return static_cast<int64_t>(info.uordblks + info.hblkhd);
}

// The bytes of the heap that each of many streams takes. `advance` does with a new stream what its
// client does.
int64_t BytesOfStream(int num_streams, const std::shared_ptr<const TlsContext>& server,
                      const std::function<void(TlsStream*)>& advance) {
  const auto count = static_cast<size_t>(num_streams);
  std::vector<std::unique_ptr<TlsStream>> streams;
  streams.reserve(count);
  const auto add = [&] {
    streams.push_back(std::make_unique<TlsStream>(server, kNow));
    advance(streams.back().get());
  };
  add();  // what stays in memory
  const int64_t before = HeapBytes();
  while (streams.size() < count) add();
  return (HeapBytes() - before) / (num_streams - 1);
}

void Receive(absl::string_view wire, TlsStream* stream, std::string* to_client) {
  std::vector<char> plain(wire.size() + TlsStream::kMaxRecordBytes);
  stream->Receive(wire, plain.data(), to_client, kNow);
}

// Runs the client's part of the handshake.
void Handshake(TlsClient* client, TlsStream* stream) {
  while (stream->state() == State::kHandshake) {
    std::string to_client;
    Receive(client->TakeWire(), stream, &to_client);
    client->Receive(to_client);
  }
  ASSERT_EQ(stream->state(), State::kOpen) << stream->error();
}

TEST_F(TlsTest, AnIdleStreamIsSmall) {
  if (kSanitized) GTEST_SKIP() << "the sanitizers have memory of their own";
  const int64_t bytes = BytesOfStream(1000, pair_.server, [this](TlsStream* stream) {
    TlsClient client(pair_.client);
    Handshake(&client, stream);
    // Some bytes have passed both ways.
    std::string to_client;
    client.Send(std::string(20'000, 'q'));
    Receive(client.TakeWire(), stream, &to_client);
    stream->Send(std::string(20'000, 'a'), &to_client);
  });
  std::cout << bytes << " bytes\n";
  EXPECT_LT(bytes, 64 << 10);
}

// What a client costs before it has shown its certificate, whatever it sends.
TEST_F(TlsTest, AStreamInItsHandshakeIsSmall) {
  if (kSanitized) GTEST_SKIP() << "the sanitizers have memory of their own";
  constexpr int64_t kMaxBytes = 256 << 10;  // see kMaxHandshakes in door.cc
  const auto bytes_after = [this](const std::string& wire) {
    return BytesOfStream(100, pair_.server, [&wire](TlsStream* stream) {
      std::string to_client;
      Receive(wire, stream, &to_client);
    });
  };
  const std::string hello = TlsClient(pair_.client).TakeWire();
  // A record of four bytes, which announce a ClientHello of this size, in kibibytes.
  const auto announce = [](int kib) {
    std::string record("\x16\x03\x01\0\x04\x01", 6);
    record += static_cast<char>(kib >> 6);
    record += static_cast<char>(kib << 2);
    record += '\0';
    return record;
  };
  EXPECT_LE(bytes_after(""), kMaxBytes);
  EXPECT_LE(bytes_after(hello.substr(0, hello.size() / 2)), kMaxBytes);
  EXPECT_LE(bytes_after(hello), kMaxBytes);
  for (const int kib : {1, 16, 32, 64, 127}) {
    EXPECT_LE(bytes_after(announce(kib)), kMaxBytes) << kib;
  }
  // The client's certificate comes with a long chain.
  for (const int num_certificates : {1, 20, 40, 200}) {
    CertifiedKey long_chain = pair_.client_key;
    for (int i = 1; i < num_certificates; ++i) {
      long_chain.certificate += pair_.client_key.certificate;
    }
    const TlsClientContext context(
        TlsClientOptions{.ca = pair_.authority.pem(), .certificate = long_chain});
    const int64_t bytes = BytesOfStream(100, pair_.server, [&context](TlsStream* stream) {
      TlsClient client(context);
      std::string to_client;
      Receive(client.TakeWire(), stream, &to_client);
      client.Receive(to_client);
      std::string wire = client.TakeWire();
      wire.resize(wire.size() - 100);
      Receive(wire, stream, &to_client);
    });
    EXPECT_LE(bytes, kMaxBytes) << num_certificates;
  }
}

}  // namespace
}  // namespace tessera::testing
