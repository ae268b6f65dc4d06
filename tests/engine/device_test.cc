// Tests that no code above the backend accesses device memory: whole engines on a FakeDevice, whose
// memory the host cannot access, give the same bits as on the CPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernels/base/log.h"
#include "tests/lib/fake_device.h"
#include "tests/lib/real_stack.h"
#include "tests/lib/tiny_model.h"

namespace tessera::testing {
namespace {

std::unique_ptr<Backend> NewFakeDevice(const std::string& name, ThreadTeam* team,
                                       std::string* error) {
  auto inner = NewBackend(name, team, /*comm=*/nullptr, error);
  return inner == nullptr ? nullptr : std::make_unique<FakeDevice>(std::move(inner));
}

std::vector<TokenId> Prompt(int count, int seed) {
  std::vector<TokenId> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back((i * (37 + seed) + 11 * seed + i / 7) % 500);
  return tokens;
}

class DeviceTest : public ::testing::TestWithParam<std::string> {};

// Runs requests and returns their results: texts with and without adapters, sampled and greedy,
// with log-probabilities of prompt and output, an embedding, and two copies of a prompt (shared
// pages are copied before they are written). The pool has too few pages for all requests at once.
std::vector<Generated> RunAll(const std::string& model, const std::string& backend, bool fake) {
  const std::string dir = "deploy/models/" + model;
  RealStackOptions options;
  options.model_dirs = {dir};
  options.backend = backend;
  options.num_threads = 2;
  options.num_slabs = 90;
  options.engine.max_num_seqs = 8;
  options.engine.max_num_batched_tokens = 96;
  if (fake) options.new_backend = NewFakeDevice;
  RealStack stack(options);
  EXPECT_TRUE(stack.adapters().Register(FindAdapters(dir + "/adapters", 0).value()).ok());
  std::vector<int> numbers;
  for (int i = 0; i < 8; ++i) {
    Request request;
    request.prompt = Prompt(20 + 30 * i, i % 6);
    request.stopping.max_tokens = 8;
    request.stopping.ignore_eos = true;
    request.sampling.temperature = i % 2 == 0 ? 0.0f : 0.8f;
    request.sampling.seed = static_cast<uint64_t>(i);
    request.logprobs = i % 3;
    if (i == 2) request.prompt_logprobs = 2;
    if (i == 3) request.kind = RequestKind::kEmbed;
    if (i == 4) request.sampling.n = 2;
    if (i >= 5) {
      const std::string name = i == 5 ? "keltish-1" : "olmec-1";
      request.adapter = stack.adapters().Resolve(0, {{name, "", {}}}).value();
    }
    numbers.push_back(stack.Submit(request));
  }
  stack.RunAll();
  std::vector<Generated> results;
  for (const int number : numbers) results.push_back(stack.result(number));
  results.push_back(stack.result(numbers[4], 1));
  return results;
}

TEST_P(DeviceTest, ShippedModelsHaveTheSameBits) {
  std::vector<std::string> models = {"tessera-nano"};
  if (GetParam() != "ref") models.push_back("tessera-base");
  for (const std::string& model : models) {
    const std::vector<Generated> plain = RunAll(model, GetParam(), /*fake=*/false);
    const std::vector<Generated> fake = RunAll(model, GetParam(), /*fake=*/true);
    ASSERT_EQ(plain.size(), fake.size());
    for (size_t i = 0; i < plain.size(); ++i) {
      EXPECT_EQ(plain[i].num_finished, 1) << model << " " << i;
      EXPECT_TRUE(plain[i].status.ok()) << plain[i].status;
      EXPECT_TRUE(SameResults(plain[i], fake[i])) << model << " " << i;
    }
    EXPECT_FALSE(plain[3].embedding.empty());
    EXPECT_FALSE(plain[2].prompt_logprobs.empty());
  }
}

// The results of two steps that have every kind of tap (an optional output of a step, TapKind),
// several layer ranges, page ops and slot updates.
struct TapRun {
  StepResult first;
  StepResult second;
  std::vector<float> logits;
};

TapRun RunTaps(Backend* backend) {
  TinyModel model("deploy/models/tessera-nano", backend);
  const int32_t num_layers = model.spec().num_layers;
  const int sequence = model.AddSequence(Prompt(70, 3));
  std::vector<Tap> taps;
  int32_t floats = 0;
  for (const TapKind kind :
       {TapKind::kHidden, TapKind::kAttentionMass, TapKind::kLogSumExp, TapKind::kValueDeviation}) {
    Tap tap;
    tap.kind = kind;
    tap.row_begin = 5;
    tap.num_rows = 9;
    tap.layer_begin = 1;
    tap.layer_end = num_layers + (kind == TapKind::kHidden ? 1 : 0);
    tap.block = 8;
    int64_t per_layer = 9;
    if (kind == TapKind::kHidden) per_layer = 9 * model.spec().hidden;
    if (kind == TapKind::kAttentionMass) per_layer = CeilDiv(50, 8);
    if (kind == TapKind::kLogSumExp) per_layer = 9 * model.spec().heads;
    tap.out_begin = floats;
    tap.out_count = static_cast<int32_t>(per_layer * (tap.layer_end - tap.layer_begin));
    floats += tap.out_count;
    taps.push_back(tap);
  }
  TapRun run;
  run.first = model.Run(*model.Build({{sequence, 50, /*sample=*/true}}, taps), {1});
  PageOp shift;
  shift.kind = PageOpKind::kRopeShift;
  shift.dst = model.pages(sequence, 0)[1];
  shift.num_tokens = model.layout().page_tokens();
  shift.layer_end = model.layout().groups[0].num_layers;
  shift.delta = 3;
  PageOp copy = shift;
  copy.kind = PageOpKind::kCopy;
  copy.src = model.pages(sequence, 0)[1];
  copy.dst = model.pages(sequence, 0)[2];
  run.second = model.Run(*model.Build({{sequence, 20, /*sample=*/true}}, {}, {shift, copy},
                                      {SlotUpdate{sequence, 7}}));
  run.logits = model.LastLogits();
  return run;
}

void ExpectSame(const StepResult& a, const StepResult& b) {
  EXPECT_TRUE(SameBits(a.taps, b.taps));
  ASSERT_EQ(a.rows.size(), b.rows.size());
  for (size_t r = 0; r < a.rows.size(); ++r) EXPECT_EQ(a.rows[r].token, b.rows[r].token);
}

TEST_P(DeviceTest, TapsAndPageOpsHaveTheSameBits) {
  TestBackend plain(GetParam());
  TestBackend inner(GetParam());
  FakeDevice device(std::move(inner.backend));
  const TapRun expected = RunTaps(plain.backend.get());
  const TapRun actual = RunTaps(&device);
  ExpectSame(expected.first, actual.first);
  ExpectSame(expected.second, actual.second);
  EXPECT_FALSE(expected.first.taps.empty());
  EXPECT_TRUE(SameBits(expected.logits, actual.logits));
}

// The reference, and the best instruction set of this machine if it has one.
std::vector<std::string> Backends() {
  std::vector<std::string> names = CpuBackends();
  names.resize(std::min<size_t>(names.size(), 1));
  names.push_back("ref");
  return names;
}

INSTANTIATE_TEST_SUITE_P(Backends, DeviceTest, ::testing::ValuesIn(Backends()),
                         [](const auto& info) { return info.param; });

// Steps of different sizes run under equal graph keys, and FakeDevice compares the ops that these
// steps issue.
TEST(FakeDeviceTest, EqualGraphKeysIssueEqualOps) {
  TestBackend inner("ref");
  FakeDevice device(std::move(inner.backend));
  TinyModel model("deploy/models/tessera-nano", &device);
  const int sequence = model.AddSequence(Prompt(64, 1));
  for (const int num_tokens : {17, 18, 21, 1, 1, 1}) model.Step({{sequence, num_tokens}});
  EXPECT_EQ(device.num_replays(), 2 + 2);
}

// Taps lie at one address, whatever else a step puts out.
TEST(FakeDeviceTest, TappedStepsHaveTheirOwnKeys) {
  TestBackend inner("ref");
  FakeDevice device(std::move(inner.backend));
  TinyModel model("deploy/models/tessera-nano", &device);
  const int first = model.AddSequence(Prompt(20, 1));
  const int second = model.AddSequence(Prompt(20, 2));
  Tap tap;
  tap.kind = TapKind::kLogSumExp;
  tap.num_rows = 2;
  tap.layer_end = model.spec().num_layers;
  tap.out_count = 2 * model.spec().heads * model.spec().num_layers;
  model.Run(*model.Build({{first, 3, /*sample=*/true}, {second, 3, /*sample=*/true}}, {tap}));
  model.Run(*model.Build({{first, 3}, {second, 3}}, {tap}));
  EXPECT_EQ(device.num_replays(), 1);
  model.Run(*model.Build({{first, 3}, {second, 3}}));
  EXPECT_EQ(device.num_replays(), 1);
}

// Both models are probed at start, and each has keys of its own.
TEST(FakeDeviceTest, TwoModelsShareADevice) {
  RealStackOptions options;
  options.model_dirs = {GoldenModelDir("llama2"), GoldenModelDir("llama32")};
  options.new_backend = NewFakeDevice;
  RealStack stack(options);
  for (int32_t model = 0; model < 2; ++model) {
    Request request;
    request.model = model;
    request.prompt = {1, 2, 3, 4, 5, 6, 7};
    request.sampling.temperature = 0.0f;
    request.stopping.max_tokens = 4;
    request.stopping.ignore_eos = true;
    EXPECT_EQ(stack.Run(request).tokens.size(), 4u);
  }
}

TEST(GraphKeyTest, BucketsAddFewRows) {
  int32_t last = 0;
  for (int32_t count = 1; count <= 4096; ++count) {
    const int32_t bucket = GraphBucket(count);
    EXPECT_GE(bucket, count);
    EXPECT_GE(bucket, last);
    EXPECT_LT(bucket - count, count <= 256 ? 8 : 256);
    EXPECT_EQ(GraphBucket(bucket), bucket);
    last = bucket;
  }
}

TEST(FakeDeviceDeathTest, TheHostCannotTouchItsMemory) {
  ASSERT_TRUE(InitLogging("error"));  // death tests read the log from stderr
  TestBackend inner("ref");
  FakeDevice device(std::move(inner.backend));
  const auto buffer = device.Allocate(64);
  volatile char* const memory = static_cast<char*>(buffer->data());
  EXPECT_DEATH(memory[3] = 1, "");
  EXPECT_DEATH(EXPECT_EQ(memory[3], 0), "");
  float host[4] = {};
  NormArgs norm{host, 1e-5f};
  LogitsArgs args;
  args.hidden = Tensor::F32(host, 1, 4);
  args.final_norm = norm;
  EXPECT_DEATH(device.Logits(args), "a host pointer where device memory is asked for");
}

TEST(TransferTest, RunsOfPagesGoBothWays) {
  TestBackend inner("ref");
  FakeDevice device(std::move(inner.backend));
  constexpr int64_t kSlab = 128;
  const auto memory = device.Allocate(16 * kSlab);
  const PoolView pool = {static_cast<char*>(memory->data()), kSlab, 16};
  const auto transfer = NewCopyTransfer(&device, pool);
  std::string bytes(3 * 100, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7);
  std::vector<uint64_t> done;
  const auto on_done = [&done](const Completion& completion) {
    EXPECT_TRUE(completion.status.ok());
    done.push_back(completion.ticket);
  };
  transfer->ToDevice({{9, 2, 5}, 100}, bytes.data(), 41, on_done);
  std::string back(100 * 2, '\0');
  transfer->ToHost({{5, 9}, 100}, back.data(), 42, on_done);
  EXPECT_EQ(back, bytes.substr(200) + bytes.substr(0, 100));
  std::string after(28, 'x');
  device.Download(pool.Page(9) + 100, after.data(), after.size());
  EXPECT_EQ(after, std::string(28, '\0')) << "bytes after the moved ones stay";
  EXPECT_EQ(done, (std::vector<uint64_t>{41, 42}));
}

}  // namespace
}  // namespace tessera::testing
