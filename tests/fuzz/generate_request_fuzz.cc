// Passes arbitrary bytes as a request of an Inference method, which the first byte selects, up to
// the engine. An accepted request must satisfy the engine's preconditions.
#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/base/log.h"
#include "scheduler/residency/adapters/adapter_registry.h"
#include "server/call/limits.h"
#include "server/call/live_calls.h"
#include "server/call/prepare.h"
#include "tessera/v1/inference.pb.h"
#include "tests/server/fake_models.h"

namespace {

void CheckRequest(const tessera::Request& request) {
  using tessera::testing::kFakeContext;
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  const bool embeds = request.kind == tessera::RequestKind::kEmbed;
  CHECK(prompt >= 1 && prompt + (embeds ? 0 : 1) <= kFakeContext);
  for (const tessera::TokenId id : request.prompt) CHECK(id >= 0 && id < 300);
  CHECK(request.stopping.max_tokens >= 1);
  CHECK(embeds || request.stopping.max_tokens <= kFakeContext - prompt);
  CHECK(request.stopping.min_tokens <= request.stopping.max_tokens);
  CHECK(request.sampling.n >= 1 && request.sampling.n <= tessera::kMaxN);
  CHECK(request.sampling.temperature >= 0);
  CHECK(request.sampling.top_p > 0 && request.sampling.top_p <= 1);
  for (const tessera::TokenBias& bias : request.sampling.logit_bias) {
    CHECK(bias.token >= 0 && bias.token < 300 && bias.bias == bias.bias);
  }
}

// The template of the fake model writes one special token, <s>. With plain_content, the text of the
// client adds none.
void CheckPlain(const std::string& bytes, const tessera::Request& request) {
  tessera::v1::ChatRequest chat;
  CHECK(chat.ParseFromString(bytes));
  // The template writes a variable of the client between < and >.
  if (!chat.plain_content() || chat.has_template_args_json()) return;
  CHECK_EQ(request.prompt.front(), tessera::testing::kFakeBos);
  for (size_t i = 1; i < request.prompt.size(); ++i) CHECK_LT(request.prompt[i], 256);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto* const models = new tessera::ModelRegistry(tessera::testing::FakeModels());
  if (size == 0) return 0;
  tessera::LiveCalls live;
  const auto method = static_cast<tessera::Method>(data[0] % 5);
  const std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  static tessera::AdapterRegistry adapters({});
  const tessera::PreparedCall prepared =
      tessera::Prepare(method, bytes, 1, *models, &adapters, &live);
  if (!prepared.status.ok()) {
    CHECK(!prepared.status.message().empty());
    return 0;
  }
  CHECK_EQ(prepared.reply != nullptr, prepared.requests.empty());
  for (const auto& request : prepared.requests) CheckRequest(*request);
  if (method == tessera::Method::kChat) CheckPlain(bytes, *prepared.requests.front());
  return 0;
}
