#include "tests/lib/core_stack.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

namespace tessera::testing {
namespace {

class OutputSink final : public TokenSink {
 public:
  explicit OutputSink(RequestOutput* out) : out_(out) {}
  void Push(TokenEvent event) override {
    SequenceOutput& output = (*out_)[event.index];
    EXPECT_FALSE(output.finished) << "an event after the last one";
    switch (event.kind) {
      case TokenEvent::Kind::kPromptLogprobs:
        EXPECT_TRUE(output.tokens.empty());
        for (OutputToken& token : event.tokens) output.prompt_logprobs.push_back(std::move(token));
        break;
      case TokenEvent::Kind::kToken:
        for (const OutputToken& token : event.tokens) output.tokens.push_back(token.token);
        break;
      case TokenEvent::Kind::kEmbedding:
        output.embedding = std::move(event.embedding);
        break;
      case TokenEvent::Kind::kFinished:
        output.finished = true;
        output.reason = event.reason;
        output.status = event.status;
        output.usage = event.usage;
        output.timing = event.timing;
        break;
    }
  }

 private:
  RequestOutput* const out_;
};

}  // namespace

void CoreStack::Start() {
  options.models = models;
  options.deployment_secret = "test";
  int32_t max_slabs = 1;
  for (const EngineModel& model : models) {
    max_slabs = std::max(max_slabs, model.layout.slabs_per_page);
  }
  auto manager = NewKvManager(num_slabs, models[0].layout.slab_bytes, max_slabs);
  for (const EngineModel& model : models) manager->AddModel(model.layout);
  kv = manager.get();
  FakeRunnerOptions runner_options;
  runner_options.models = models;
  runner_options.num_slabs = num_slabs;
  runner_options.depth = depth;
  runner_options.max_num_seqs = options.max_num_seqs;
  runner_options.clock = &clock;
  runner_options.samples_apart = samples_apart;
  if (step_us) runner_options.step_us = step_us;
  runner_options.is_finite = is_finite;
  if (!adapter_pages.empty()) {
    adapters = std::make_unique<FakeAdapters>(models[0], adapter_pages);
    options.adapters = adapters->registry();
  }
  stats = std::make_unique<EngineStats>(models.size());
  auto fake = std::make_unique<FakeRunner>(runner_options);
  runner = fake.get();
  std::unique_ptr<FakeAdapterLoader> fake_loader;
  if (adapters != nullptr) {
    AdapterLoaderEvents events;
    events.on_read = [this](AdapterId id, absl::StatusOr<AdapterImage> image, int64_t read_us) {
      core->OnAdapterRead(id, std::move(image), read_us);
    };
    events.on_copied = [this](AdapterId id) { core->OnAdapterCopied(id); };
    fake_loader = std::make_unique<FakeAdapterLoader>(runner, std::move(events));
  }
  loader = fake_loader.get();
  core = std::make_unique<EngineCore>(
      options, std::move(manager), std::move(fake), std::move(fake_loader), stats.get(),
      [this] { ++left_queue; }, std::move(policy));
  driver = std::make_unique<CoreDriver>(core.get(), &clock, [this] { runner->FinishOldest(); });
}

std::unique_ptr<Request> CoreStack::NewRequest(std::vector<TokenId> prompt, int64_t max_tokens,
                                               RequestOutput* out) {
  auto request = std::make_unique<Request>();
  request->id = next_id++;
  request->prompt = std::move(prompt);
  request->stopping.max_tokens = max_tokens;
  request->arrival_us = clock.NowUs();
  request->sink = std::make_shared<OutputSink>(out);
  return request;
}

uint64_t CoreStack::Submit(std::unique_ptr<Request> request) {
  const uint64_t id = request->id;
  core->Submit(std::move(request));
  return id;
}

bool CoreStack::Round() {
  const bool busy = driver->RunOnce();
  core->CheckInvariants();
  return busy;
}

bool CoreStack::FinishLoads() {
  if (loader == nullptr) return false;
  bool any = false;
  for (; loader->is_reading(); any = true) {
    loader->FinishRead(adapters->Image(loader->next_read()));
  }
  for (; loader->is_copying(); any = true) loader->FinishCopy();
  return any;
}

void CoreStack::RunAll() {
  while (Round() || FinishLoads()) {
  }
  EXPECT_EQ(core->num_unfinished(), 0);
  EXPECT_EQ(kv->usage().kv_slabs, 0);
}

Sequence* CoreStack::Running(uint64_t request_id, int32_t index) {
  for (Sequence* s : core->scheduler().Running()) {
    if (s->request->id == request_id && s->index == index) return s;
  }
  return nullptr;
}

std::vector<TokenId> FakePrompt(int seed, int length) {
  std::vector<TokenId> prompt;
  for (int i = 0; i < length; ++i) prompt.push_back((seed * 131 + i * 17) % 1000);
  return prompt;
}

}  // namespace tessera::testing
