// Measures kernels on the shapes of qwen2.5-0.5b, with shares of the machine's limits: the counter
// "of_read" is the share of the bandwidth that all threads reach when they only read; "of_peak" is
// the share of the multiply-adds that all threads reach on registers alone. On a busy machine use
// --threads=1, which counts only the thread's own CPU time. Other load changes the limits too, so
// they are measured before the benchmarks and printed again after them.
//
//   tessera_kernel_bench [--threads=N] [--isa=NAME] [google-benchmark flags]
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/base/thread_team.h"
#include "kernels/cpu/isa.h"
#include "kernels/device/backend.h"
#include "kernels/device/footprint.h"

namespace tessera {
namespace {

constexpr int kHeads = 14;
constexpr int kKvHeads = 2;
constexpr int kHeadDim = 64;
constexpr int kLayers = 24;
constexpr int64_t kQkvCols = (kHeads + 2 * kKvHeads) * kHeadDim;
constexpr int64_t kHidden = kHeads * kHeadDim;
constexpr int64_t kIntermediate = 4864;
constexpr int64_t kVocab = 151936;
constexpr size_t kReadBytes = size_t{512} << 20;

class WholeModel;

struct Machine {
  std::unique_ptr<ThreadTeam> team;
  std::unique_ptr<Backend> backend;
  const cpu::IsaKernels* kernels = nullptr;
  double read_gbps = 0.0;
  double peak_gflops = 0.0;           // peak of bf16
  double peak_gops = 0.0;             // peak of int8
  std::shared_ptr<WholeModel> model;  // made at its first use
};

// Returns the CPU time of the calling thread if the machine has one thread, else the wall time.
double Now(int threads) {
  timespec now;
  clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

template <class Body>
double Seconds(int threads, const Body& body) {
  const double begin = Now(threads);
  body();
  return Now(threads) - begin;
}

uint64_t SumWords(const uint64_t* words, size_t count) {
  uint64_t sums[8] = {};
  for (size_t i = 0; i + 8 <= count; i += 8) {
    for (size_t j = 0; j < 8; ++j) sums[j] += words[i + j];
  }
  return sums[0] + sums[1] + sums[2] + sums[3] + sums[4] + sums[5] + sums[6] + sums[7];
}

double MeasureReadGbps(Machine* machine) {
  const auto buffer = machine->backend->Allocate(kReadBytes);
  std::memset(buffer->data(), 1, kReadBytes);
  const uint64_t* const words = static_cast<const uint64_t*>(buffer->data());
  const size_t count = kReadBytes / sizeof(uint64_t);
  const size_t members = static_cast<size_t>(machine->team->num_threads());
  double best = 1e9;
  for (int pass = 0; pass < 10; ++pass) {
    const auto read = [&](int member) {
      const size_t begin = count * static_cast<size_t>(member) / members;
      const size_t end = count * static_cast<size_t>(member + 1) / members;
      benchmark::DoNotOptimize(SumWords(words + begin, end - begin));
    };
    best = std::min(best, Seconds(machine->team->num_threads(), [&] { machine->team->Run(read); }));
  }
  return static_cast<double>(kReadBytes) / best / 1e9;
}

double MeasurePeak(Machine* machine, decltype(cpu::IsaKernels::spin_dots) spin) {
  double best = 0.0;
  for (int pass = 0; pass < 10; ++pass) {
    double flops = 0.0;
    const double seconds = Seconds(machine->team->num_threads(), [&] {
      machine->team->Run([&](int member) {
        const double mine = spin(200'000);
        if (member == 0) flops = mine * machine->team->num_threads();
      });
    });
    best = std::max(best, flops / seconds / 1e9);
  }
  return best;
}

void MeasureLimits(Machine* machine) {
  machine->read_gbps = std::max(machine->read_gbps, MeasureReadGbps(machine));
  const cpu::IsaKernels& kernels = *machine->kernels;
  machine->peak_gflops =
      std::max(machine->peak_gflops, MeasurePeak(machine, kernels.spin_multiply_adds));
  machine->peak_gops = std::max(machine->peak_gops, MeasurePeak(machine, kernels.spin_dots));
}

void Report(benchmark::State& state, const Machine& machine, double bytes, double flops,
            bool quantized = false) {
  const double runs = static_cast<double>(state.iterations());
  const auto rate = [&](double amount) {
    return benchmark::Counter(amount * runs, benchmark::Counter::kIsRate);
  };
  state.counters["GB/s"] = rate(bytes / 1e9);
  state.counters["GFLOP/s"] = rate(flops / 1e9);
  state.counters["of_read"] = rate(bytes / 1e9 / machine.read_gbps);
  state.counters["of_peak"] =
      rate(flops / 1e9 / (quantized ? machine.peak_gops : machine.peak_gflops));
}

std::vector<float> RandomFloats(size_t count, float bound) {
  std::minstd_rand random(1);
  std::uniform_real_distribution<float> uniform(-bound, bound);
  std::vector<float> values(count);
  for (float& value : values) value = uniform(random);
  return values;
}

struct LinearShape {
  const char* name;
  int64_t n;
  int64_t k;
  Epilogue epilogue;
};
constexpr LinearShape kShapes[] = {
    {"qkv", kQkvCols, kHidden, Epilogue::kStore},
    {"o", kHidden, kHidden, Epilogue::kResidualAdd},
    {"gate_up", 2 * kIntermediate, kHidden, Epilogue::kGatedAct},
    {"down", kHidden, kIntermediate, Epilogue::kResidualAdd},
    {"logits", kVocab, kHidden, Epilogue::kStore},
};

// Packs so many copies of the weight that they exceed the caches. The benchmark uses the copies in
// turn, as a model uses its layers.
void BenchLinear(benchmark::State& state, Machine* machine, const LinearShape& shape,
                 const WeightFormat& format, int64_t rows) {
  const bool gated = shape.epilogue == Epilogue::kGatedAct;
  const int64_t weight_bytes = PackedBytes(1, shape.n, shape.k, format);
  const int64_t copies = std::max<int64_t>(1, (int64_t{128} << 20) / weight_bytes);
  const std::vector<float> values = RandomFloats(static_cast<size_t>(shape.n * shape.k), 0.05f);
  std::vector<std::unique_ptr<PackedWeight>> weights;
  for (int64_t i = 0; i < copies; ++i) {
    std::vector<WeightView> parts = {{values.data(), DType::kF32, shape.n, shape.k}};
    if (gated) {
      parts[0].rows /= 2;
      parts.push_back(parts[0]);
    }
    weights.push_back(machine->backend->Pack(parts, format, gated));
  }
  const int64_t out_cols = gated ? shape.n / 2 : shape.n;
  std::vector<float> x = RandomFloats(static_cast<size_t>(rows * shape.k), 1.0f);
  std::vector<float> out(static_cast<size_t>(rows * out_cols));
  const std::vector<float> norm(static_cast<size_t>(shape.k), 1.0f);
  LinearArgs args;
  args.x = Tensor::F32(x.data(), rows, shape.k);
  if (shape.k == kHidden) args.pre_norm = {norm.data(), 1e-6f};
  args.epilogue = shape.epilogue;
  args.out = Tensor::F32(out.data(), rows, out_cols);
  size_t next = 0;
  for (auto _ : state) {
    args.weight = weights[next++ % weights.size()].get();
    machine->backend->Linear(args);
  }
  Report(state, *machine, static_cast<double>(weight_bytes),
         2.0 * static_cast<double>(rows) * static_cast<double>(shape.n * shape.k),
         format.quantized() && format.activations == DType::kI8);
}

// A batch of segments of `rows` tokens, each after a prefix of `prefix` tokens. The pages of the
// segments are in random order.
class Segments {
 public:
  Segments(Machine* machine, int num_segments, int rows, int prefix, DType dtype = DType::kBF16)
      : rows_(num_segments * rows), keys_(prefix + rows) {
    layout_.kv_heads = kKvHeads;
    layout_.head_dim = kHeadDim;
    layout_.dtype = dtype;
    layout_.num_layers = kLayers;
    const int pages = CeilDiv(keys_, layout_.page_tokens);
    const int num_slabs = num_segments * pages + 1;
    pool_ = machine->backend->Allocate(static_cast<size_t>(num_slabs * layout_.page_bytes()));
    pool_view_ = {static_cast<char*>(pool_->data()), layout_.page_bytes(), num_slabs};
    // Memory that was never written is mapped to one physical page of zeros, which stays in the
    // caches.
    std::memset(pool_->data(), 0x3c, pool_->size());
    std::vector<PageId> page_ids(static_cast<size_t>(num_slabs - 1));
    std::iota(page_ids.begin(), page_ids.end(), 1);
    std::shuffle(page_ids.begin(), page_ids.end(), std::mt19937(1));
    std::vector<int32_t> positions;
    std::vector<int64_t> places;
    std::vector<Segment> segments;
    std::vector<Range> run_ranges;
    std::vector<KvRun> runs;
    for (int s = 0; s < num_segments; ++s) {
      for (int position = prefix; position < keys_; ++position) {
        const PageId page = page_ids[s * pages + position / layout_.page_tokens];
        positions.push_back(position);
        places.push_back(page * layout_.page_tokens + position % layout_.page_tokens);
      }
      segments.push_back({s, s * rows, rows, -1});
      run_ranges.push_back({s, 1});
      runs.push_back({s * pages, pages, 0, keys_, 0, 0});
    }
    batch_.tokens = arena_.Add<TokenId>(static_cast<size_t>(rows_));
    batch_.positions = arena_.AddCopy(positions);
    batch_.write_places = arena_.AddCopy(places);
    batch_.segments = arena_.AddCopy(segments);
    batch_.run_ranges = arena_.AddCopy(run_ranges);
    batch_.runs = arena_.AddCopy(runs);
    batch_.pages = arena_.AddCopy(page_ids);
    rope_.rotary_dim = kHeadDim;
    for (int i = 0; i < kHeadDim / 2; ++i) {
      rope_.inv_freq.push_back(std::pow(1e6f, -2.0f * static_cast<float>(i) / kHeadDim));
    }
  }

  BatchView view() const { return {&batch_, arena_.base()}; }
  int64_t row_bytes() const { return layout_.token_bytes(); }
  void BeginStep(Backend* backend) const {
    StepShape shape;
    shape.hidden = kHidden;
    shape.widest_input = kIntermediate;
    shape.groups = {{kHeads, kKvHeads, kHeadDim, /*window=*/0}};
    shape.rope_dims = {kHeadDim};
    backend->BeginStep(view(), shape, backend->Plan(view(), shape));
  }
  AttentionArgs Args(int layer, std::vector<float>* qkv, std::vector<float>* out) const {
    AttentionArgs args;
    args.batch = view();
    args.qkv = Tensor::F32(qkv->data(), rows_, kQkvCols);
    args.out = Tensor::F32(out->data(), rows_, kHidden);
    args.layer_in_group = layer;
    args.heads = kHeads;
    args.scale = 0.125f;
    args.rope = &rope_;
    args.layout = &layout_;
    args.pool = pool_view_;
    return args;
  }

 private:
  const int rows_;
  const int keys_;
  GroupLayout layout_;
  std::unique_ptr<DeviceBuffer> pool_;
  PoolView pool_view_;
  BatchArena arena_;
  StepBatch batch_;
  RopeSpec rope_;
};

// Runs the layers in turn, so that keys are read from memory if they do not fit the caches.
void BenchAttention(benchmark::State& state, Machine* machine, DType dtype, int num_segments,
                    int rows, int prefix) {
  const Segments segment(machine, num_segments, rows, prefix, dtype);
  const size_t num_rows = static_cast<size_t>(num_segments) * static_cast<size_t>(rows);
  std::vector<float> qkv = RandomFloats(num_rows * kQkvCols, 1.0f);
  std::vector<float> out(num_rows * kHidden);
  int layer = 0;
  for (auto _ : state) {
    if (layer == 0) segment.BeginStep(machine->backend.get());
    machine->backend->Attention(segment.Args(layer, &qkv, &out));
    layer = (layer + 1) % kLayers;
  }
  const double visible = static_cast<double>(num_rows) * (prefix + 0.5 * (rows + 1));
  Report(state, *machine,
         2.0 * num_segments * (prefix + rows) * kKvHeads * static_cast<double>(segment.row_bytes()),
         4.0 * visible * kHeads * kHeadDim);
}

// The weights of a whole model with random values.
class WholeModel {
 public:
  explicit WholeModel(Machine* machine) : backend_(machine->backend.get()) {
    const std::vector<float> values = RandomFloats(static_cast<size_t>(kVocab * kHidden), 0.02f);
    const auto pack = [&](int64_t n, int64_t k, bool gated) {
      std::vector<WeightView> parts = {{values.data(), DType::kF32, gated ? n / 2 : n, k}};
      if (gated) parts.push_back(parts[0]);
      bytes_ += n * k * DTypeBytes(DType::kBF16);
      return backend_->Pack(parts, DType::kBF16, gated);
    };
    for (int layer = 0; layer < kLayers; ++layer) {
      for (const LinearShape& shape : kShapes) {
        if (shape.n == kVocab) continue;
        weights_.push_back(pack(shape.n, shape.k, shape.epilogue == Epilogue::kGatedAct));
      }
    }
    table_ = pack(kVocab, kHidden, false);
  }

  int64_t bytes() const { return bytes_; }

  // Runs a whole step except sampling; computes the logits of the last row.
  void Step(const Segments& segment, int64_t rows) {
    residual_.resize(static_cast<size_t>(rows * kHidden));
    qkv_.resize(static_cast<size_t>(rows * kQkvCols));
    attended_.resize(residual_.size());
    gated_.resize(static_cast<size_t>(rows * kIntermediate));
    logits_.resize(kVocab);
    const Tensor residual = Tensor::F32(residual_.data(), rows, kHidden);
    segment.BeginStep(backend_);
    EmbedArgs embed;
    embed.batch = segment.view();
    embed.table = table_.get();
    embed.out = residual;
    backend_->Embed(embed);
    for (int layer = 0; layer < kLayers; ++layer) {
      Linear(layer, 0, residual, Tensor::F32(qkv_.data(), rows, kQkvCols));
      backend_->Attention(segment.Args(layer, &qkv_, &attended_));
      Linear(layer, 1, Tensor::F32(attended_.data(), rows, kHidden), residual);
      Linear(layer, 2, residual, Tensor::F32(gated_.data(), rows, kIntermediate));
      Linear(layer, 3, Tensor::F32(gated_.data(), rows, kIntermediate), residual);
    }
    const int32_t last = static_cast<int32_t>(rows - 1);
    LogitsArgs logits;
    logits.hidden = residual;
    logits.token_rows = &last;
    logits.num_rows = 1;
    logits.final_norm = {norm_.data(), 1e-6f};
    logits.weight = table_.get();
    logits.out = Tensor::F32(logits_.data(), 1, kVocab);
    backend_->Logits(logits);
  }

 private:
  void Linear(int layer, int shape, const Tensor& x, const Tensor& out) {
    LinearArgs args;
    args.x = x;
    args.weight = weights_[static_cast<size_t>(layer) * 4 + static_cast<size_t>(shape)].get();
    if (shape % 2 == 0) args.pre_norm = {norm_.data(), 1e-6f};
    args.epilogue = kShapes[shape].epilogue;
    args.out = out;
    backend_->Linear(args);
  }

  Backend* const backend_;
  std::vector<std::unique_ptr<PackedWeight>> weights_;  // [layers, 4]
  std::unique_ptr<PackedWeight> table_;
  int64_t bytes_ = 0;
  const std::vector<float> norm_ = std::vector<float>(kHidden, 1.0f);
  std::vector<float> residual_, qkv_, attended_, gated_, logits_;
};

void BenchStep(benchmark::State& state, Machine* machine, int rows, int prefix) {
  if (machine->model == nullptr) machine->model = std::make_shared<WholeModel>(machine);
  const Segments segment(machine, 1, rows, prefix);
  for (auto _ : state) machine->model->Step(segment, rows);
  const double bytes = static_cast<double>(machine->model->bytes());
  Report(state, *machine, bytes, (bytes - 2.0 * kVocab * kHidden) * rows);
  state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(state.iterations()) * rows,
                                                  benchmark::Counter::kIsRate);
}

struct Sampling {
  const char* name;
  float temperature;
  float top_p;
  float logit_deviation;  // standard deviation of the normally distributed logits
};
constexpr Sampling kSamplings[] = {
    {"sample/greedy", 0.0f, 1.0f, 1.0f},
    {"sample/temperature", 0.8f, 1.0f, 1.0f},
    {"sample/top_p/flat", 0.8f, 0.95f, 1.0f},
    {"sample/top_p/peaked", 0.8f, 0.95f, 4.0f},
};

// Samples 16 rows, the number of rows of which the model computes logits at a time.
void BenchSample(benchmark::State& state, Machine* machine, const Sampling& sampling) {
  constexpr int kRows = 16;
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0f, sampling.logit_deviation);
  std::vector<float> logits(static_cast<size_t>(kRows * kVocab));
  for (float& logit : logits) logit = normal(random);
  SamplerRow row;
  row.temperature = sampling.temperature;
  row.top_p = sampling.top_p;
  std::vector<SamplerRow> rows(kRows, row);
  for (int i = 0; i < kRows; ++i) rows[static_cast<size_t>(i)].position = i;
  BatchArena arena;
  StepBatch batch;
  batch.sampler_rows = arena.AddCopy(rows);
  StepResult result;
  SampleArgs args;
  args.batch = {&batch, arena.base()};
  args.num_rows = kRows;
  args.logits = Tensor::F32(logits.data(), kRows, kVocab);
  result.rows.resize(rows.size());
  args.rows = result.rows.data();
  for (auto _ : state) {
    machine->backend->Sample(args);
  }
  Report(state, *machine, static_cast<double>(logits.size() * sizeof(float)), 0.0);
}

void RegisterAll(Machine* machine) {
  const bool cpu_time = machine->team->num_threads() == 1;
  const auto add = [cpu_time](const std::string& name, auto body) {
    auto* const registered = benchmark::RegisterBenchmark(name.c_str(), body);
    if (!cpu_time) registered->UseRealTime();
  };
  const std::pair<const char*, WeightFormat> formats[] = {
      {"bf16", DType::kBF16},
      {"int8", DType::kI8},
      {"int4g32", {DType::kI4, 32}},
      {"int5g32", {DType::kI5, 32}},
      {"int4g128z", {DType::kI4, 128, true}},
      {"int4g128x16", WeightFormat(DType::kI4, 128).WithBF16Activations()},
      {"int8x16", WeightFormat(DType::kI8).WithBF16Activations()},
  };
  for (const LinearShape& shape : kShapes) {
    for (int64_t rows : {1, 4, 16, 32, 64, 512}) {
      if (shape.n == kVocab && rows > 64) continue;
      for (const auto& [format_name, format] : formats) {
        const std::string name =
            std::string(shape.name) + "/" + format_name + "/rows" + std::to_string(rows);
        add(name, [machine, &shape, format = format, rows](benchmark::State& state) {
          BenchLinear(state, machine, shape, format, rows);
        });
      }
    }
  }
  for (int64_t rows : {1, 512}) {
    add("gate_up/f32/rows" + std::to_string(rows), [machine, rows](benchmark::State& state) {
      BenchLinear(state, machine, kShapes[2], DType::kF32, rows);
    });
  }
  struct AttentionShape {
    const char* name;
    int num_segments, rows, prefix;
  };
  constexpr AttentionShape kAttentionShapes[] = {
      {"attention/decode/context2048", 1, 1, 2047},
      {"attention/decode8/context2048", 8, 1, 2047},
      {"attention/prefill512", 1, 512, 0},
      {"attention/prefill512/context8192", 1, 512, 7680},
  };
  for (const AttentionShape& shape : kAttentionShapes) {
    for (const DType dtype : {DType::kBF16, DType::kI8}) {
      const std::string suffix = dtype == DType::kI8 ? "/int8" : "";
      add(shape.name + suffix, [machine, dtype, shape](benchmark::State& state) {
        BenchAttention(state, machine, dtype, shape.num_segments, shape.rows, shape.prefix);
      });
    }
  }
  for (const Sampling& sampling : kSamplings) {
    add(sampling.name,
        [machine, &sampling](benchmark::State& state) { BenchSample(state, machine, sampling); });
  }
  add("step/decode/context256",
      [machine](benchmark::State& state) { BenchStep(state, machine, 1, 255); });
  add("step/prefill512", [machine](benchmark::State& state) { BenchStep(state, machine, 512, 0); });
}

// Removes the flag "--name=" from the arguments and returns its value, or `fallback` without it.
std::string TakeFlag(const std::string& name, const std::string& fallback, int* argc, char** argv) {
  const std::string prefix = "--" + name + "=";
  for (int i = 1; i < *argc; ++i) {
    const std::string argument = argv[i];
    if (argument.compare(0, prefix.size(), prefix) != 0) continue;
    std::copy(argv + i + 1, argv + *argc, argv + i);
    --*argc;
    return argument.substr(prefix.size());
  }
  return fallback;
}

int Main(int argc, char** argv) {
  const std::string threads = TakeFlag(
      "threads", std::to_string(std::max(1u, std::thread::hardware_concurrency())), &argc, argv);
  const std::string isa = TakeFlag("isa", "", &argc, argv);
  Machine machine;
  machine.team = std::make_unique<ThreadTeam>(std::max(1, std::atoi(threads.c_str())));
  machine.backend = NewCpuBackend(isa, machine.team.get());
  machine.kernels = cpu::FindKernels(isa);
  if (machine.backend == nullptr) {
    std::fprintf(stderr, "this machine has no instruction set '%s'\n", isa.c_str());
    return 2;
  }
  MeasureLimits(&machine);
  RegisterAll(&machine);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  std::printf("%s, %d threads: read %.1f GB/s, bf16 peak %.0f GFLOP/s, int8 peak %.0f GOP/s\n",
              machine.backend->name().c_str(), machine.team->num_threads(), machine.read_gbps,
              machine.peak_gflops, machine.peak_gops);
  benchmark::RunSpecifiedBenchmarks();
  MeasureLimits(&machine);
  std::printf("limits at the end: read %.1f GB/s, bf16 peak %.0f GFLOP/s, int8 peak %.0f GOP/s\n",
              machine.read_gbps, machine.peak_gflops, machine.peak_gops);
  return 0;
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) { return tessera::Main(argc, argv); }
