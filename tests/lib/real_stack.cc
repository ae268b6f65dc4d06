#include "tests/lib/real_stack.h"

#include <cstring>

#include "kernels/base/log.h"
#include "scheduler/device/assemble.h"

namespace tessera::testing {
namespace {

class ResultSink final : public TokenSink {
 public:
  ResultSink(std::vector<std::map<int32_t, Generated>>* results, int request)
      : results_(results), request_(request) {}
  void Push(TokenEvent event) override {
    Generated& out = (*results_)[request_][event.index];
    switch (event.kind) {
      case TokenEvent::Kind::kPromptLogprobs:
        for (OutputToken& token : event.tokens) out.prompt_logprobs.push_back(std::move(token));
        break;
      case TokenEvent::Kind::kToken:
        for (OutputToken& token : event.tokens) out.tokens.push_back(std::move(token));
        break;
      case TokenEvent::Kind::kEmbedding:
        out.embedding = std::move(event.embedding);
        break;
      case TokenEvent::Kind::kFinished:
        ++out.num_finished;
        out.reason = event.reason;
        out.usage = event.usage;
        out.status = event.status;
        break;
    }
  }

 private:
  std::vector<std::map<int32_t, Generated>>* const results_;
  const int request_;
};

bool SameFloat(float a, float b) { return std::memcmp(&a, &b, sizeof(a)) == 0; }

bool SameTokens(const std::vector<OutputToken>& a, const std::vector<OutputToken>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].token != b[i].token || !SameFloat(a[i].logprob, b[i].logprob)) return false;
    if (a[i].top.size() != b[i].top.size()) return false;
    for (size_t t = 0; t < a[i].top.size(); ++t) {
      if (a[i].top[t].token != b[i].top[t].token) return false;
      if (!SameFloat(a[i].top[t].logprob, b[i].top[t].logprob)) return false;
    }
  }
  return true;
}

}  // namespace

bool SameResults(const Generated& a, const Generated& b) {
  if (a.num_finished != b.num_finished || a.reason != b.reason) return false;
  if (a.embedding.size() != b.embedding.size()) return false;
  for (size_t i = 0; i < a.embedding.size(); ++i) {
    if (!SameFloat(a.embedding[i], b.embedding[i])) return false;
  }
  return SameTokens(a.tokens, b.tokens) && SameTokens(a.prompt_logprobs, b.prompt_logprobs);
}

// An adapter loader that loads on the caller's thread when RunLoader is called.
class RealStack::ManualLoader final : public AdapterLoader {
 public:
  explicit ManualLoader(RealStack* stack) : stack_(stack) {}

  void Read(AdapterId id) override {
    jobs_.push_back(
        [this, id] { stack_->core_->OnAdapterRead(id, stack_->adapters_->Build(id), 1000); });
  }
  void Copy(AdapterId id, const AdapterImage* image, std::vector<PageId> pages) override {
    jobs_.push_back([this, id, image, pages = std::move(pages)] {
      stack_->core_->runner()->transfer()->ToDevice(
          {pages, image->layout.page_bytes}, image->pages.data(), /*ticket=*/0,
          [this, id](Completion) { stack_->core_->OnAdapterCopied(id); });
    });
  }

  bool Run() {
    const auto jobs = std::exchange(jobs_, {});
    for (const std::function<void()>& job : jobs) job();
    return !jobs.empty();
  }

 private:
  RealStack* const stack_;
  std::vector<std::function<void()>> jobs_;
};

RealStack::RealStack(const RealStackOptions& options) {
  AssembleOptions assemble;
  for (const std::string& dir : options.model_dirs) assemble.models.push_back({dir, dir});
  assemble.backend = options.backend;
  assemble.num_threads = options.num_threads;
  assemble.weight_dtype = options.bf16 ? WeightDtype::kBF16 : WeightDtype::kF32;
  assemble.kv_dtype = options.kv_dtype;
  assemble.new_backend = options.new_backend;
  assemble.engine = options.engine;
  if (options.model_dirs.size() == 1) assemble.page_tokens = options.page_tokens;
  // The first plan tells the size of a slab. The second plan has the number of slabs that the test
  // asks for.
  auto plan = PlanMemory(assemble);
  CHECK(plan.ok()) << plan.status();
  assemble.kv_cache_bytes = options.num_slabs * plan->slab_bytes;
  plan = PlanMemory(assemble);
  CHECK(plan.ok()) << plan.status();
  auto device = Assemble(assemble, *plan);
  CHECK(device.ok()) << device.status();
  models_ = device->engine.models;
  stats_ = std::make_unique<EngineStats>(models_.size());
  auto loader = std::make_unique<ManualLoader>(this);
  loader_ = loader.get();
  kv_ = device->kv.get();
  core_ =
      std::make_unique<EngineCore>(device->engine, std::move(device->kv), std::move(device->runner),
                                   std::move(loader), stats_.get(), nullptr);
  driver_ = std::make_unique<CoreDriver>(core_.get(), &clock_);
  adapters_ = std::move(device->adapters);
}

RealStack::~RealStack() = default;

bool RealStack::RunLoader() { return loader_->Run(); }

Sequence* RealStack::Running(int request, int index) {
  for (Sequence* s : core_->scheduler().Running()) {
    if (s->request->id == engine_id(request) && s->index == index) return s;
  }
  return nullptr;
}

void RealStack::ReadPages(const std::vector<PageId>& pages, char* to) {
  const int64_t page_bytes = models_[0].layout.page_bytes();
  bool is_done = false;
  core_->runner()->transfer()->ToHost({pages, page_bytes}, to, 0, [&](Completion completion) {
    CHECK(completion.status.ok()) << completion.status;
    is_done = true;
  });
  CHECK(is_done) << "the device copies on its own time";
}

void RealStack::WritePages(const std::vector<PageId>& pages, const char* from) {
  const int64_t page_bytes = models_[0].layout.page_bytes();
  bool is_done = false;
  core_->runner()->transfer()->ToDevice({pages, page_bytes}, from, 0, [&](Completion completion) {
    CHECK(completion.status.ok()) << completion.status;
    is_done = true;
  });
  CHECK(is_done) << "the device copies on its own time";
}

int RealStack::Submit(const Request& request) {
  const int number = static_cast<int>(results_.size());
  results_.emplace_back();
  auto copy = std::make_unique<Request>(request);
  copy->id = engine_id(number);
  copy->arrival_us = clock_.NowUs();
  copy->sink = std::make_shared<ResultSink>(&results_, number);
  core_->Submit(std::move(copy));
  return number;
}

void RealStack::RunAll() {
  while (RunOnce() || RunLoader()) {
  }
  core_->CheckInvariants();
}

const Generated& RealStack::Run(const Request& request) {
  const int number = Submit(request);
  RunAll();
  return result(number);
}

}  // namespace tessera::testing
