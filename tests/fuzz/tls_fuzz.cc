// Passes arbitrary bytes of a client through TLS. The first byte of the input chooses what the
// client is: raw (0: the input is its bytes), or a real client whose bytes the input changes, with
// a certificate (1), without one (2) or with one of another authority (3). The rest is a list of
// steps.
//   Raw: a byte with the length of a piece, and the piece.
//   Real: a byte with what happens (below), and two more bytes.
// A stream never writes more than it may, and once it has ended or failed, it stays so.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "kernels/base/log.h"
#include "server/door/tls.h"
#include "tests/lib/tls_client.h"

namespace {

using tessera::TlsStream;
using tessera::testing::TestAuthority;
using tessera::testing::TlsClient;
using tessera::testing::TlsClientContext;
using tessera::testing::TlsClientOptions;
using tessera::testing::TlsPair;
using State = TlsStream::State;

constexpr int64_t kNow = 1'000'000;
constexpr int kMaxSteps = 60;

struct Ends {
  TlsPair pair;
  TlsClientContext anonymous{TlsClientOptions{.ca = pair.authority.pem()}};
  TlsClientContext stranger{TlsClientOptions{.ca = pair.authority.pem(),
                                             .certificate = TestAuthority("a").Sign("DNS:a")}};
};

// Made once. Its folder is removed at the end.
const Ends& MadeEnds() {
  static const auto ends = std::make_unique<Ends>();
  return *ends;
}

bool Takes(const TlsStream& stream) {
  return stream.state() == State::kHandshake || stream.state() == State::kOpen;
}

// Gives bytes to the stream and checks what must hold. Returns what they decrypt to.
std::string Receive(absl::string_view bytes, TlsStream* stream, std::string* to_client) {
  if (!Takes(*stream)) return "";
  const State before = stream->state();
  // On the heap and of the exact size, so that the address sanitizer sees each byte too many.
  std::vector<char> plain(bytes.size() + TlsStream::kMaxRecordBytes);
  const size_t size = stream->Receive(bytes, plain.data(), to_client, kNow);
  CHECK_LE(size, plain.size());
  CHECK(before != State::kOpen || stream->state() != State::kHandshake);
  CHECK_EQ(stream->state() == State::kFailed, !stream->error().empty());
  if (stream->state() == State::kOpen) (void)stream->ClientCertificateNames();
  return {plain.data(), size};
}

// What a connection does with a stream after the last bytes.
void Finish(TlsStream* stream, std::string* to_client) {
  const State state = stream->state();
  if (state == State::kOpen || state == State::kEnded) stream->Send("answer", to_client);
  CHECK(stream->state() == state);
  stream->End(to_client);
  CHECK(stream->state() == state);
}

void RunRaw(absl::string_view rest) {
  TlsStream stream(MadeEnds().pair.server, kNow);
  std::string to_client;
  while (!rest.empty() && Takes(stream)) {
    const absl::string_view piece = rest.substr(1, static_cast<uint8_t>(rest[0]));
    rest.remove_prefix(1 + piece.size());
    Receive(piece, &stream, &to_client);
    CHECK(stream.state() != State::kOpen) << "nobody guesses a handshake";
  }
  Finish(&stream, &to_client);
}

void RunReal(const TlsClientContext& context, absl::string_view steps) {
  TlsClient client(context);
  TlsStream stream(MadeEnds().pair.server, kNow);
  std::string to_server;
  std::string to_client;
  std::string sent;
  std::string received;
  bool is_changed = false;
  bool has_ended = false;
  const auto client_speaks = [&] { return client.open() && client.error().empty() && !has_ended; };
  // Moves bytes both ways until there are none, or for `rounds` rounds.
  const auto exchange = [&](int rounds, size_t piece) {
    for (int i = 0; i < rounds; ++i) {
      to_server += client.TakeWire();
      if (to_server.empty() && to_client.empty()) return;
      for (absl::string_view rest = to_server; !rest.empty();) {
        received += Receive(rest.substr(0, piece), &stream, &to_client);
        rest.remove_prefix(std::min(piece, rest.size()));
      }
      to_server.clear();
      client.Receive(std::exchange(to_client, {}));
    }
  };
  for (int i = 0; i < kMaxSteps && steps.size() >= 3 && Takes(stream); ++i) {
    const auto first = static_cast<uint8_t>(steps[1]);
    const auto second = static_cast<uint8_t>(steps[2]);
    to_server += client.TakeWire();
    const int kind = static_cast<uint8_t>(steps[0]) % 9;
    steps.remove_prefix(3);
    switch (kind) {
      case 0:  // bytes arrive, in pieces of this size
        exchange(1 + first % 4, 1 + size_t{second});
        break;
      case 1:  // the client sends a text
        if (!client_speaks()) break;
        client.Send(std::string(1 + size_t{first} * size_t{second}, 't'));
        sent.append(1 + size_t{first} * size_t{second}, 't');
        break;
      case 2:  // a byte changes
        if (to_server.empty() || second == 0) break;
        to_server[(size_t{first} << 3 | second >> 5) % to_server.size()] ^=
            static_cast<char>(second);
        is_changed = true;
        break;
      case 3:  // bytes are lost
        if (to_server.empty()) break;
        to_server.erase((size_t{first} << 2) % to_server.size(), 1 + size_t{second});
        is_changed = true;
        break;
      case 4:  // bytes come twice
        if (to_server.empty()) break;
        to_server += to_server.substr((size_t{first} << 2) % to_server.size(), 1 + size_t{second});
        is_changed = true;
        break;
      case 5:
        if (client_speaks()) client.ChangeKeys();
        break;
      case 6:
        if (stream.state() != State::kOpen) break;
        stream.Send(std::string(size_t{first} * size_t{second}, 'a'), &to_client);
        break;
      case 7:
        if (client_speaks()) client.End();
        has_ended |= client.open();
        break;
      default:  // the client sends something between two records
        to_server += static_cast<char>(first);
        to_server += static_cast<char>(second);
        is_changed = true;
        break;
    }
  }
  exchange(20, 1 << 16);
  // What arrives is what was sent, or its beginning.
  CHECK(absl::string_view(sent).substr(0, received.size()) == received);
  if (!is_changed && &context == &MadeEnds().pair.client && stream.state() != State::kFailed) {
    CHECK(stream.state() == (has_ended ? State::kEnded : State::kOpen) && received == sent);
  }
  if (&context != &MadeEnds().pair.client) {
    CHECK(stream.state() != State::kOpen && received.empty()) << "a client without a certificate";
  }
  Finish(&stream, &to_client);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view input(reinterpret_cast<const char*>(data), size);
  if (input.empty()) return 0;
  const Ends& ends = MadeEnds();
  switch (input[0] & 3) {
    case 0:
      RunRaw(input.substr(1));
      break;
    case 1:
      RunReal(ends.pair.client, input.substr(1));
      break;
    case 2:
      RunReal(ends.anonymous, input.substr(1));
      break;
    default:
      RunReal(ends.stranger, input.substr(1));
  }
  return 0;
}
