// Tests of the exchange of KV between two engines whose pages hold different numbers of tokens:
// both engines export the same bytes for a prompt, and an engine that imports the bytes gives the
// same results as the engine that computed them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kvstore/kv_run.h"
#include "tests/lib/real_stack.h"
#include "tests/lib/tiny_model.h"

namespace tessera::testing {
namespace {

constexpr int64_t kPromptTokens = 90;
// The tokens whose KV is exchanged: the prompt without its last token, which the importing engine
// must compute.
constexpr RunPlace kExchanged{0, kPromptTokens - 1};

Request NewRequest() {
  Request request;
  for (int64_t i = 0; i < kPromptTokens; ++i) {
    request.prompt.push_back(static_cast<TokenId>(i * 11 % 120));
  }
  request.stopping.max_tokens = 12;
  request.stopping.ignore_eos = true;
  request.logprobs = 2;
  request.sampling.seed = 3;
  request.sampling.temperature = 0.8f;
  return request;
}

// Copies of a sequence's pages in host memory.
class Images {
 public:
  Images(RealStack* stack, const Sequence& sequence)
      : stack_(stack), layout_(stack->models()[0].layout) {
    for (const auto& group : sequence.kv.groups) {
      std::vector<PageId>& ids = ids_.emplace_back(group.pages.begin(), group.pages.end());
      bytes_.emplace_back(ids.size() * static_cast<size_t>(layout_.page_bytes()));
      stack_->ReadPages(ids, bytes_.back().data());
    }
  }
  void WriteBack() {
    for (size_t g = 0; g < ids_.size(); ++g) stack_->WritePages(ids_[g], bytes_[g].data());
  }
  template <class Byte>
  std::vector<std::vector<Byte*>> Pointers() {
    std::vector<std::vector<Byte*>> pointers(bytes_.size());
    for (size_t g = 0; g < bytes_.size(); ++g) {
      for (size_t i = 0; i < ids_[g].size(); ++i) {
        pointers[g].push_back(bytes_[g].data() + i * static_cast<size_t>(layout_.page_bytes()));
      }
    }
    return pointers;
  }

 private:
  RealStack* const stack_;
  const PageLayout layout_;
  std::vector<std::vector<PageId>> ids_;  // [groups][pages]
  std::vector<std::vector<char>> bytes_;  // [groups]
};

// Submits the request, sets *number to the request's number, and runs the request's first step.
Sequence* Start(RealStack* stack, int* number) {
  *number = stack->Submit(NewRequest());
  while (stack->Running(*number) == nullptr || stack->Running(*number)->num_computed == 0) {
    EXPECT_TRUE(stack->RunOnce());
  }
  return stack->Running(*number);
}

// Computes the request and returns its output. As soon as the prompt's KV is computed, exports that
// KV to *run, and sets *name (null: no name) to the hash that names the first run of the prompt.
Generated Compute(const RealStackOptions& options, std::string* run, PageHash* name) {
  RealStack stack(options);
  int number = 0;
  const Sequence* const sequence = Start(&stack, &number);
  Images images(&stack, *sequence);
  *run = ExportRun(stack.models()[0].layout, images.Pointers<const char>(), kExchanged);
  if (name != nullptr) {
    const auto root = stack.core().ExportRoot(*sequence->request);
    *name = RunNames(*root, sequence->request->prompt).front();
  }
  stack.RunAll();
  return stack.result(number);
}

struct Exchange {
  const char* model;
  KvDtype kv_dtype;
};

class KvExchangeTest : public ::testing::TestWithParam<std::string> {
 protected:
  ~KvExchangeTest() override { std::filesystem::remove_all(dir_); }

  // Returns the folder of a copy of the model whose windows are longer than the prompt, so that no
  // page is released.
  std::string ModelWithLongWindows(const std::string& model) const {
    std::filesystem::remove_all(dir_);
    std::filesystem::copy(GoldenModelDir(model), dir_);
    const std::string path = dir_ + "/config.json";
    nlohmann::json config = nlohmann::json::parse(std::ifstream(path));
    if (!config["sliding_window"].is_null()) config["sliding_window"] = 200;
    std::ofstream(path) << config;
    return dir_;
  }

  RealStackOptions Options(const Exchange& exchange, int32_t page_tokens) const {
    RealStackOptions options;
    options.model_dirs = {ModelWithLongWindows(exchange.model)};
    options.backend = GetParam();
    options.kv_dtype = exchange.kv_dtype;
    options.page_tokens = page_tokens;
    options.num_slabs = 128;
    options.engine.max_num_seqs = 2;
    options.engine.max_num_batched_tokens = 96;
    return options;
  }

  // Computes a few tokens of the prompt, imports the KV of the others from `run`, and continues the
  // request.
  static Generated Continue(RealStackOptions options, const std::string& run) {
    options.engine.max_num_batched_tokens = 6;
    RealStack stack(options);
    int number = 0;
    Sequence* const sequence = Start(&stack, &number);
    EXPECT_EQ(sequence->num_computed, 6);
    EXPECT_TRUE(stack.kv().Grow(&sequence->kv, kExchanged.count));
    Images images(&stack, *sequence);
    const absl::Status status =
        ImportRun(stack.models()[0].layout, run, images.Pointers<char>(), kExchanged);
    EXPECT_TRUE(status.ok()) << status;
    images.WriteBack();
    stack.core().TakeComputed(sequence, kExchanged.count, {});
    stack.RunAll();
    return stack.result(number);
  }

 private:
  const std::string dir_ = ::testing::TempDir() + "/kv_exchange_" + std::to_string(getpid());
};

INSTANTIATE_TEST_SUITE_P(Backend, KvExchangeTest, ::testing::ValuesIn(AllBackends()),
                         [](const auto& info) { return info.param; });

TEST_P(KvExchangeTest, PagesOfAnotherSizeGiveTheSameBytesAndTheSameAnswer) {
  const Exchange exchanges[] = {{"llama32", KvDtype::kF32},
                                {"mistral", KvDtype::kBF16},
                                {"qwen2_padded_group", KvDtype::kF32},
                                {"qwen2_padded_group", KvDtype::kI8}};
  for (const Exchange& exchange : exchanges) {
    std::string small_run;
    std::string large_run;
    const Generated small = Compute(Options(exchange, 8), &small_run, nullptr);
    const Generated large = Compute(Options(exchange, 40), &large_run, nullptr);
    EXPECT_EQ(small.reason, FinishReason::kLength);
    EXPECT_TRUE(SameResults(small, large)) << exchange.model;
    EXPECT_TRUE(small_run == large_run) << exchange.model;
    EXPECT_TRUE(SameResults(Continue(Options(exchange, 40), small_run), small)) << exchange.model;
    EXPECT_TRUE(SameResults(Continue(Options(exchange, 8), large_run), small)) << exchange.model;
    // Other bytes give another answer, so the answer above depends on the imported bytes.
    std::string other = small_run;
    for (size_t i = 3; i < other.size(); i += 64) other[i] = static_cast<char>(other[i] ^ 1);
    EXPECT_FALSE(SameResults(Continue(Options(exchange, 40), other), small)) << exchange.model;
  }
}

// Backends that round differently have different names of the run. Backends with the same name must
// export the same bytes.
TEST(KvExchangeNamesTest, ABackendWithTheSameNameHasTheSameBytes) {
  struct Outcome {
    PageHash name;
    std::string run;
  };
  std::vector<Outcome> outcomes;
  for (const bool bf16 : {false, true}) {
    for (const std::string& backend : AllBackends()) {
      RealStackOptions options;
      options.model_dirs = {GoldenModelDir("llama32")};
      options.backend = backend;
      options.bf16 = bf16;
      options.kv_dtype = KvDtype::kF32;
      options.engine.max_num_batched_tokens = 96;
      options.engine.max_num_seqs = 2;
      options.engine.deployment_secret = "secret";
      Outcome outcome;
      Compute(options, &outcome.run, &outcome.name);
      // Another engine on the same backend has the same name.
      options.page_tokens = 8;
      options.num_threads = 2;
      Outcome again;
      Compute(options, &again.run, &again.name);
      EXPECT_TRUE(again.name == outcome.name && again.run == outcome.run) << backend;
      for (const Outcome& other : outcomes) {
        if (other.name != outcome.name) continue;
        EXPECT_TRUE(other.run == outcome.run) << backend;
      }
      outcomes.push_back(std::move(outcome));
    }
  }
}

}  // namespace
}  // namespace tessera::testing
