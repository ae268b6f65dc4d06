// Tests that each field of a request and each option of the engine has its effect in the real
// engine. Every field has a row in a table: how to set it, and what must then differ. A struct that
// gets a new field without a row does not pass.
#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <string>
#include <utility>

#include "kernels/base/clock.h"
#include "scheduler/step/queue_gate.h"
#include "tests/lib/log_capture.h"
#include "tests/lib/raw_checkpoint.h"
#include "tests/lib/real_stack.h"
#include "tests/lib/tiny_model.h"

namespace tessera::testing {
namespace {

// Converts to anything, so that an aggregate can be initialised without knowing its members.
struct Anything {
  template <class T>
  operator T() const;
};

template <class T, size_t... I>
constexpr bool HasMembers(std::index_sequence<I...>) {
  return requires { T{(static_cast<void>(I), Anything{})...}; };
}

// The number of direct members and base classes of an aggregate.
template <class T, size_t N = 40>
constexpr size_t NumMembers() {
  if constexpr (HasMembers<T>(std::make_index_sequence<N>())) {
    return N;
  } else {
    return NumMembers<T, N - 1>();
  }
}

constexpr TokenId kFirst = 5;  // the two tokens that biased requests choose between
constexpr TokenId kSecond = 6;

const char* const kModel = "qwen2";
const std::string kAdapterDir = "tests/golden/adapters/qwen2/plain";

RealStackOptions Options() {
  RealStackOptions options;
  options.model_dirs = {GoldenModelDir(kModel)};
  options.engine.max_num_seqs = 8;
  options.engine.max_num_batched_tokens = 48;
  options.engine.deployment_secret = "test";
  return options;
}

// A request with sampled tokens.
Request Base() {
  Request request;
  for (TokenId token = 10; token < 50; ++token) request.prompt.push_back(token);
  request.stopping.max_tokens = 6;
  request.sampling.seed = 7;
  return request;
}

// A greedy request that generates kFirst. Without kFirst it generates kSecond: its logits are about
// 100 and 90, and the others are small.
Request Biased() {
  Request request = Base();
  request.sampling.temperature = 0.0f;
  request.sampling.logit_bias = {{kFirst, 100.0f}, {kSecond, 90.0f}};
  return request;
}

std::vector<TokenId> Ids(const Generated& result) {
  std::vector<TokenId> ids;
  for (const OutputToken& token : result.tokens) ids.push_back(token.token);
  return ids;
}

std::vector<TokenId> TokensOf(const Request& request) {
  RealStack stack(Options());
  return Ids(stack.Run(request));
}

Generated ResultOf(const Request& request) {
  RealStack stack(Options());
  return stack.Run(request);
}

std::vector<TokenId> Greedy() {
  Request request = Base();
  request.sampling.temperature = 0.0f;
  return TokensOf(request);
}

// Cached prompt tokens of `second` after `first` ran.
int64_t CachedAfter(const Request& first, const Request& second) {
  RealStack stack(Options());
  stack.Run(first);
  return stack.Run(second).usage.cached_prompt_tokens;
}

// Submits requests and returns the numbers of those that have a token after the first step.
std::set<int> FirstServed(const RealStackOptions& options, const std::vector<Request>& requests) {
  RealStack stack(options);
  std::vector<int> numbers;
  for (const Request& request : requests) numbers.push_back(stack.Submit(request));
  stack.RunOnce();
  std::set<int> served;
  for (const int number : numbers) {
    if (!stack.result(number).tokens.empty()) served.insert(number);
  }
  stack.RunAll();
  return served;
}

struct Row {
  const char* field;
  std::function<void()> expect;
};
using Rows = std::vector<Row>;

// Runs each row. `num_fields`: the number of fields of the struct; `elsewhere`: fields whose effect
// another row or all rows show.
void RunRows(const Rows& rows, size_t num_fields, const std::set<std::string>& elsewhere) {
  std::set<std::string> fields = elsewhere;
  for (const Row& row : rows) {
    SCOPED_TRACE(row.field);
    EXPECT_TRUE(fields.insert(row.field).second) << "two rows";
    row.expect();
  }
  EXPECT_EQ(fields.size(), num_fields) << "a field has no row";
}

Rows SamplingRows() {
  const auto sampled = [](auto set) {
    Request request = Base();
    set(&request.sampling);
    return TokensOf(request);
  };
  const auto biased = [](auto set) {
    Request request = Biased();
    set(&request.sampling);
    return TokensOf(request);
  };
  using S = SamplingParams;
  using Ids = std::vector<TokenId>;
  return {
      {"temperature", [=] { EXPECT_EQ(sampled([](S* s) { s->temperature = 0.0f; }), Greedy()); }},
      {"top_k", [=] { EXPECT_EQ(sampled([](S* s) { s->top_k = 1; }), Greedy()); }},
      {"top_p", [=] { EXPECT_EQ(sampled([](S* s) { s->top_p = 1e-6f; }), Greedy()); }},
      {"min_p", [=] { EXPECT_EQ(sampled([](S* s) { s->min_p = 1.0f; }), Greedy()); }},
      {"seed", [=] { EXPECT_NE(sampled([](S* s) { s->seed = 8; }), TokensOf(Base())); }},
      // Tokens of the prompt and the output lose all of a positive logit.
      {"repetition_penalty",
       [] {
         Request request = Base();
         request.sampling.temperature = 0.0f;
         const std::vector<TokenId> without = TokensOf(request);
         request.sampling.repetition_penalty = 1e6f;
         const std::vector<TokenId> with = TokensOf(request);
         EXPECT_NE(with, without);
         std::set<TokenId> seen(request.prompt.begin(), request.prompt.end());
         for (const TokenId token : with) EXPECT_TRUE(seen.insert(token).second) << token;
       }},
      // The logit of kFirst falls once by 20, or by 20 for each time that it was generated.
      {"presence_penalty",
       [=] {
         EXPECT_EQ(biased([](S* s) { s->presence_penalty = 20.0f; }),
                   (Ids{kFirst, kSecond, kFirst, kFirst, kFirst, kFirst}));
       }},
      {"frequency_penalty",
       [=] {
         EXPECT_EQ(biased([](S* s) { s->frequency_penalty = 20.0f; }),
                   (Ids{kFirst, kSecond, kFirst, kSecond, kFirst, kSecond}));
       }},
      {"logit_bias", [=] { EXPECT_EQ(biased([](S*) {}), Ids(6, kFirst)); }},
      {"n",
       [] {
         RealStack stack(Options());
         Request request = Base();
         request.sampling.n = 2;
         const int number = stack.Submit(request);
         stack.RunAll();
         EXPECT_EQ(testing::Ids(stack.result(number, 0)), TokensOf(Base()));
         EXPECT_EQ(stack.result(number, 1).tokens.size(), 6u);
         EXPECT_NE(testing::Ids(stack.result(number, 1)), TokensOf(Base()));
       }},
  };
}

TEST(RequestFieldsTest, EachSamplingParameterHasItsEffect) {
  ASSERT_NE(TokensOf(Base()), Greedy());
  RunRows(SamplingRows(), NumMembers<SamplingParams>(), {});
}

Rows StoppingRows() {
  const auto stopped = [](auto set) {
    Request request = Biased();
    set(&request.stopping);
    return ResultOf(request);
  };
  using S = StoppingParams;
  using Ids = std::vector<TokenId>;
  return {
      {"max_tokens",
       [=] { EXPECT_EQ(stopped([](S* s) { s->max_tokens = 3; }).tokens.size(), 3u); }},
      {"min_tokens",
       [=] {
         // kFirst may not be generated before three tokens are.
         const Generated result = stopped([](S* s) {
           s->min_tokens = 3;
           s->eos_ids = {kFirst};
         });
         EXPECT_EQ(testing::Ids(result), (Ids{kSecond, kSecond, kSecond, kFirst}));
         EXPECT_EQ(result.reason, FinishReason::kStop);
       }},
      {"eos_ids",
       [=] {
         const Generated result = stopped([](S* s) { s->eos_ids = {kFirst}; });
         EXPECT_EQ(testing::Ids(result), Ids{kFirst});
         EXPECT_EQ(result.reason, FinishReason::kStop);
       }},
      {"stop_ids",
       [=] {
         const Generated result = stopped([](S* s) { s->stop_ids = {kFirst}; });
         EXPECT_EQ(testing::Ids(result), Ids{kFirst});
         EXPECT_EQ(result.reason, FinishReason::kStop);
       }},
      {"ignore_eos",
       [=] {
         const Generated result = stopped([](S* s) {
           s->eos_ids = {kFirst};
           s->ignore_eos = true;
         });
         EXPECT_EQ(testing::Ids(result), Ids(6, kFirst));
         EXPECT_EQ(result.reason, FinishReason::kLength);
       }},
      {"time_limit_us",
       [=] {
         EXPECT_EQ(stopped([](S* s) { s->time_limit_us = 1; }).reason, FinishReason::kTimeLimit);
       }},
  };
}

TEST(RequestFieldsTest, EachStoppingParameterHasItsEffect) {
  RunRows(StoppingRows(), NumMembers<StoppingParams>(), {});
}

void ExpectModel() {
  RealStackOptions options = Options();
  options.model_dirs.push_back(GoldenModelDir("llama32"));
  RealStack stack(options);
  Request request = Base();
  EXPECT_EQ(Ids(stack.Run(request)), TokensOf(Base()));
  request.model = 1;
  options.model_dirs.erase(options.model_dirs.begin());
  RealStack other(options);
  Request as_first = Base();
  EXPECT_EQ(Ids(stack.Run(request)), Ids(other.Run(as_first)));
  EXPECT_NE(Ids(stack.Run(request)), TokensOf(Base()));
}

void ExpectPriority() {
  RealStackOptions options = Options();
  options.engine.max_num_seqs = 1;
  Request high = Base();
  high.priority = Priority::kHigh;
  EXPECT_EQ(FirstServed(options, {Base(), high}), std::set<int>{1});
  EXPECT_EQ(FirstServed(options, {Base(), Base()}), std::set<int>{0});
}

void ExpectAdapter() {
  RealStack stack(Options());
  ASSERT_TRUE(stack.adapters().Register({{"plain", "", 0, kAdapterDir}}).ok());
  Request request = Base();
  const auto adapter = stack.adapters().Resolve(0, {{"plain", "", {}}});
  ASSERT_TRUE(adapter.ok()) << adapter.status();
  request.adapter = *adapter;
  EXPECT_NE(Ids(stack.Run(request)), TokensOf(Base()));
  EXPECT_EQ(stack.stats().adapter_loads.value(), 1);
}

// The arrival is the start of the time limit.
void ExpectArrival() {
  class DropSink final : public TokenSink {
    void Push(TokenEvent) override {}
  };
  RealStack stack(Options());
  auto request = std::make_unique<Request>(Base());
  request->id = 1;
  request->arrival_us = 12'345;
  request->stopping.time_limit_us = 1000;
  request->sink = std::make_shared<DropSink>();
  stack.core().Submit(std::move(request));
  EXPECT_EQ(stack.core().NextDeadlineUs(), 13'345);
}

// A warning names the request.
void ExpectName() {
  const std::string dir = ::testing::TempDir() + "/request_fields_overflow";
  WriteOverflowingModel(GoldenModelDir("llama32"), dir);
  RealStackOptions options = Options();
  options.model_dirs = {dir};
  RealStack stack(options);
  Request request = Base();
  request.name = "the-name";
  const LogCapture log;
  stack.Run(request);
  EXPECT_NE(log.text().find("the-name"), std::string::npos) << log.text();
}

void ExpectAcceptedClasses() {
  RealStack stack(Options());
  Request request = Base();
  request.accepted_kv_classes = {"low", "high"};
  const int number = stack.Submit(request);
  stack.RunOnce();
  const Sequence* const sequence = stack.Running(number);
  ASSERT_NE(sequence, nullptr);
  ASSERT_EQ(sequence->kv.accepted.size(), 2u);
  EXPECT_EQ(sequence->kv.accepted[1].root, ApproximateRoot(sequence->kv.root, "high"));
  stack.RunAll();
}

Rows RequestRows() {
  const auto with = [](auto set) {
    Request request = Base();
    set(&request);
    return request;
  };
  return {
      {"model", ExpectModel},
      {"kind",
       [=] {
         const Generated result = ResultOf(with([](Request* r) { r->kind = RequestKind::kEmbed; }));
         EXPECT_FALSE(result.embedding.empty());
         EXPECT_TRUE(result.tokens.empty());
       }},
      {"priority", ExpectPriority},
      {"logprobs",
       [=] {
         const Generated result = ResultOf(with([](Request* r) {
           r->logprobs = 3;
           r->prompt_logprobs = 1;
         }));
         for (const OutputToken& token : result.tokens) EXPECT_EQ(token.top.size(), 3u);
         EXPECT_TRUE(ResultOf(Base()).tokens[0].top.empty());
       }},
      {"prompt_logprobs",
       [=] {
         const Generated result = ResultOf(with([](Request* r) {
           r->logprobs = 3;
           r->prompt_logprobs = 1;
         }));
         EXPECT_EQ(result.prompt_logprobs.size(), Base().prompt.size() - 1);
         for (const OutputToken& token : result.prompt_logprobs) EXPECT_EQ(token.top.size(), 1u);
       }},
      {"bypass_prefix",
       [=] {
         EXPECT_GT(CachedAfter(Base(), Base()), 0);
         EXPECT_EQ(CachedAfter(Base(), with([](Request* r) { r->bypass_prefix = true; })), 0);
       }},
      {"arrival_us", ExpectArrival},
      {"adapter", ExpectAdapter},
      {"prompt",
       [=] { EXPECT_NE(TokensOf(with([](Request* r) { r->prompt[0] = 99; })), TokensOf(Base())); }},
      {"name", ExpectName},
      {"tenant",
       [=] { EXPECT_EQ(CachedAfter(Base(), with([](Request* r) { r->tenant = "t"; })), 0); }},
      {"salt", [=] { EXPECT_EQ(CachedAfter(Base(), with([](Request* r) { r->salt = "s"; })), 0); }},
      {"accepted_kv_classes", ExpectAcceptedClasses},
  };
}

// Each result arrives at the sink of the request with its id.
TEST(RequestFieldsTest, EachFieldOfARequestHasItsEffect) {
  RunRows(RequestRows(), NumMembers<Request>(), {"id", "sink", "sampling", "stopping"});
}

// The plans of a stack that serves the requests.
std::vector<StepPlan> PlansOf(const EngineOptions& engine, const std::vector<Request>& requests,
                              int num_rounds_between) {
  RealStackOptions options = Options();
  options.engine = engine;
  RealStack stack(options);
  std::vector<StepPlan> plans;
  stack.core().set_plan_observer([&](const StepPlan& plan) { plans.push_back(plan); });
  for (const Request& request : requests) {
    stack.Submit(request);
    for (int i = 0; i < num_rounds_between; ++i) stack.RunOnce();
  }
  stack.RunAll();
  return plans;
}

// The target of the last step that computes a prompt beside a stream.
double TargetUs(int64_t target_step_us, int32_t target_step_ratio) {
  EngineOptions engine = Options().engine;
  engine.target_step_us = target_step_us;
  engine.target_step_ratio = target_step_ratio;
  Request stream = Base();
  stream.stopping.max_tokens = 30;
  double most_us = 0.0;
  for (const StepPlan& plan : PlansOf(engine, {stream, Base()}, 12)) {
    if (plan.most_us > 0.0) most_us = plan.most_us;
  }
  return most_us;
}

absl::Status MayQueue(const EngineOptions& engine, int64_t delay_us) {
  RealStackOptions options = Options();
  options.engine = engine;
  RealStack stack(options);
  return stack.core().scheduler().policy().MayQueue(delay_us);
}

int32_t RankAfterASecond(const EngineOptions& engine) {
  RealStackOptions options = Options();
  options.engine = engine;
  RealStack stack(options);
  const Request request = Base();
  Sequence sequence;
  sequence.request = &request;
  return stack.core().scheduler().policy().Key(sequence, 1'000'000).rank;
}

int64_t Reserve(const EngineOptions& engine) {
  RealStackOptions options = Options();
  options.engine = engine;
  RealStack stack(options);
  return stack.core().scheduler().NumReservedSlabs();
}

Rows SchedulerRows() {
  const auto with = [](auto set) {
    EngineOptions options = Options().engine;
    set(&options);
    return options;
  };
  using O = EngineOptions;
  return {
      {"max_num_seqs",
       [=] {
         for (const int32_t most : {1, 2}) {
           size_t num_entries = 0;
           const O options = with([most](O* o) { o->max_num_seqs = most; });
           for (const StepPlan& plan : PlansOf(options, std::vector<Request>(4, Base()), 0)) {
             num_entries = std::max(num_entries, plan.entries.size());
           }
           EXPECT_EQ(num_entries, static_cast<size_t>(most));
         }
       }},
      {"max_num_batched_tokens",
       [=] {
         for (const int32_t most : {9, 31}) {
           const O options = with([most](O* o) { o->max_num_batched_tokens = most; });
           EXPECT_EQ(PlansOf(options, {Base()}, 0).at(0).cost.num_tokens, most);
         }
       }},
      {"target_step_us",
       [] {
         EXPECT_EQ(TargetUs(0, 1), 0.0);
         EXPECT_EQ(TargetUs(3'000'000'000, 1), 3e9);
       }},
      {"target_step_ratio", [] { EXPECT_GT(TargetUs(1, 1000), 20 * TargetUs(1, 1)); }},
      {"queue_policy",
       [=] {
         EXPECT_TRUE(MayQueue(with([](O*) {}), 3'600'000'000).ok());
         EXPECT_FALSE(MayQueue(with([](O* o) { o->queue_policy = QueuePolicyKind::kEarlyAbort; }),
                               3'600'000'000)
                          .ok());
       }},
      {"ageing_us",
       [=] {
         EXPECT_EQ(RankAfterASecond(with([](O*) {})), 1);
         EXPECT_EQ(RankAfterASecond(with([](O* o) { o->ageing_us = 1'000'000; })), 0);
       }},
      {"early_abort_us",
       [=] {
         const O soon = with([](O* o) {
           o->queue_policy = QueuePolicyKind::kEarlyAbort;
           o->early_abort_us = 1'000'000;
         });
         EXPECT_FALSE(MayQueue(soon, 500'000).ok());
         EXPECT_TRUE(MayQueue(soon, 499'999).ok());
       }},
      {"watermark",
       [=] {
         EXPECT_EQ(Reserve(with([](O* o) { o->watermark = 0.0; })), 0);
         EXPECT_GT(Reserve(with([](O* o) { o->watermark = 0.25; })), 100);
       }},
  };
}

TEST(RequestFieldsTest, EachOptionOfTheSchedulerHasItsEffect) {
  RunRows(SchedulerRows(), NumMembers<SchedulerOptions>(), {});
}

// Whether the gate accepts a request while `num_queued` wait and the delay has been 5 s for 5 s.
bool Accepts(const EngineOptions& options, int num_queued) {
  EngineStats stats(1);
  QueueGate gate(options, &stats);
  const auto policy = NewPriorityPolicy(options.ageing_us);
  for (int i = 0; i < num_queued; ++i) EXPECT_TRUE(gate.Enter(1, *policy).ok());
  stats.queue_delay_us.Set(5'000'000);
  gate.Observe(0);
  gate.Observe(5'000'000);
  return gate.Enter(1, *policy).ok();
}

// Registers the adapter "patterns" and returns a request that uses it.
Request WithPatterns(RealStack* stack) {
  EXPECT_TRUE(stack->adapters()
                  .Register({{"patterns", "", 0, "tests/golden/adapters/qwen2/patterns"}})
                  .ok());
  Request request = Base();
  request.adapter = *stack->adapters().Resolve(0, {{"patterns", "", {}}});
  return request;
}

// The number of times that an adapter is read from disk, if a request uses it, a long request takes
// its pages, and another request uses it.
int64_t NumLoads(int64_t adapter_host_bytes) {
  RealStackOptions options = Options();
  options.bf16 = true;
  options.num_slabs = 18;
  options.engine.adapter_host_bytes = adapter_host_bytes;
  RealStack stack(options);
  const Request request = WithPatterns(&stack);
  Request long_request = Base();
  long_request.prompt.assign(220, 3);
  EXPECT_EQ(stack.Run(request).tokens.size(), 6u);
  EXPECT_EQ(stack.Run(long_request).tokens.size(), 6u);
  EXPECT_EQ(stack.Run(request).tokens.size(), 6u);
  return stack.stats().adapter_loads.value();
}

// How a request ends whose adapter has not been read after some rounds; OK: it still waits.
absl::Status WithoutItsAdapter(int64_t max_adapter_read_us) {
  RealStackOptions options = Options();
  options.engine.max_adapter_read_us = max_adapter_read_us;
  RealStack stack(options);
  const Request request = WithPatterns(&stack);
  const int number = stack.Submit(request);
  for (int round = 0; round < 5; ++round) stack.RunOnce();
  const absl::Status status = stack.result(number).status;
  stack.RunAll();
  EXPECT_EQ(stack.result(number).num_finished, 1);
  return status;
}

PageHash RootUnder(const std::string& secret) {
  RealStackOptions options = Options();
  options.engine.deployment_secret = secret;
  RealStack stack(options);
  const int number = stack.Submit(Base());
  stack.RunOnce();
  const PageHash root = stack.Running(number)->kv.root;
  stack.RunAll();
  return root;
}

Rows EngineRows() {
  EngineOptions full;
  full.max_num_seqs = 8;
  full.max_queue_delay_us = 0;
  return {
      {"max_queue",
       [=]() mutable {
         full.max_queue = 9;
         EXPECT_TRUE(Accepts(full, 8));
         EXPECT_FALSE(Accepts(full, 9));
       }},
      {"max_queue_delay_us",
       [=]() mutable {
         full.max_queue_delay_us = 4'999'999;
         EXPECT_FALSE(Accepts(full, 8));
         full.max_queue_delay_us = 5'000'000;
         EXPECT_TRUE(Accepts(full, 8));
       }},
      {"tenants",
       [=]() mutable {
         for (const int32_t most : {1, 2}) {
           full.tenants[""].max_running = most;
           size_t num_entries = 0;
           for (const StepPlan& plan : PlansOf(full, std::vector<Request>(4, Base()), 0)) {
             num_entries = std::max(num_entries, plan.entries.size());
           }
           EXPECT_EQ(num_entries, static_cast<size_t>(most));
         }
       }},
      {"adapter_host_bytes",
       [] {
         EXPECT_EQ(NumLoads(0), 2);
         EXPECT_EQ(NumLoads(int64_t{1} << 20), 1);
       }},
      {"max_adapter_read_us",
       [] {
         EXPECT_TRUE(WithoutItsAdapter(int64_t{3'600'000'000}).ok());
         EXPECT_TRUE(absl::IsUnavailable(WithoutItsAdapter(0)));
       }},
      {"deployment_secret",
       [] {
         EXPECT_TRUE(RootUnder("a") == RootUnder("a"));
         EXPECT_FALSE(RootUnder("a") == RootUnder("b"));
       }},
  };
}

TEST(RequestFieldsTest, EachOptionOfTheEngineHasItsEffect) {
  // The base class is one of the members.
  RunRows(EngineRows(), NumMembers<EngineOptions>(), {"SchedulerOptions", "models", "adapters"});
}

}  // namespace
}  // namespace tessera::testing
