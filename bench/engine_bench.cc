// The engine without a server, for comparisons in one run with other engines (bench/peers.py).
// Loads a model once, then reads cases from stdin and answers each with one JSON line:
//
//   prefill TOKENS                     one prompt, nothing cached
//   decode STREAMS CONTEXT TOKENS      TOKENS more tokens of each stream after a prompt of CONTEXT
//
//   tessera_engine_bench --model DIR [--threads N] [--backend ref|ISA]
//                        [--dtype auto|float32|bfloat16|int8|int4] [--kv-dtype
//                        auto|float32|bfloat16]
#include <cstdio>
#include <iostream>
#include <map>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "kernels/base/clock.h"
#include "kernels/base/log.h"
#include "scheduler/assemble.h"
#include "scheduler/engine_core.h"

namespace tessera {
namespace {

constexpr int32_t kMaxSeqs = 64;
constexpr int32_t kStepTokens = 512;

const std::map<std::string, WeightDtype>& WeightDtypes() {
  static const std::map<std::string, WeightDtype> dtypes = {{"auto", WeightDtype::kAuto},
                                                            {"float32", WeightDtype::kF32},
                                                            {"bfloat16", WeightDtype::kBF16},
                                                            {"int8", WeightDtype::kI8},
                                                            {"int4", WeightDtype::kI4}};
  return dtypes;
}

const std::map<std::string, KvDtype>& KvDtypes() {
  static const std::map<std::string, KvDtype> dtypes = {
      {"auto", KvDtype::kAuto}, {"float32", KvDtype::kF32}, {"bfloat16", KvDtype::kBF16}};
  return dtypes;
}

// Sets *value to what the flag names. False, with a complaint, for a name that `names` lacks.
template <class T>
bool ReadName(const std::map<std::string, std::string>& flags, const std::string& flag,
              const std::map<std::string, T>& names, T* value) {
  const auto given = flags.find(flag);
  if (given == flags.end()) return true;
  const auto named = names.find(given->second);
  if (named == names.end()) {
    std::cerr << flag << " does not know '" << given->second << "'\n";
    return false;
  }
  *value = named->second;
  return true;
}

class CountSink final : public TokenSink {
 public:
  explicit CountSink(int64_t* num_tokens) : num_tokens_(num_tokens) {}
  void Push(TokenEvent event) override {
    if (event.kind == TokenEvent::Kind::kToken)
      *num_tokens_ += static_cast<int64_t>(event.tokens.size());
  }

 private:
  int64_t* const num_tokens_;
};

class Bench {
 public:
  explicit Bench(Device device)
      : models_(device.engine.models),
        stats_(models_.size()),
        core_(device.engine, std::move(device.kv), std::move(device.runner), &clock_, &stats_,
              nullptr) {}

  double Prefill(int64_t num_tokens) {
    int64_t received = 0;
    Submit(RandomPrompt(num_tokens, &rng_), /*cached=*/false, 1, &received);
    const int64_t begin_us = clock_.NowUs();
    while (core_.RunOnce()) {
    }
    const int64_t end_us = clock_.NowUs();
    CHECK(received == 1) << received << " tokens";
    return static_cast<double>(end_us - begin_us) * 1e-6;
  }

  // Seconds in which all streams together produce num_tokens each, from the moment the last one has
  // its first token. No stream ends before that: the early ones go on while the late ones prefill.
  // Prompts are the same each time and stay cached, so that another round need not compute them.
  double Decode(int64_t num_streams, int64_t context, int64_t num_tokens,
                int64_t* measured_tokens) {
    int64_t received = 0;
    const int64_t prefill_steps = num_streams * (context / kStepTokens + 2);
    for (int64_t i = 0; i < num_streams; ++i) {
      std::mt19937 rng(static_cast<uint32_t>(i));
      Submit(RandomPrompt(context, &rng), /*cached=*/true, prefill_steps + num_tokens, &received);
    }
    while (AnyWithoutFirstToken() && core_.RunOnce()) {
    }
    const int64_t before = received;
    const int64_t begin_us = clock_.NowUs();
    while (received - before < num_streams * num_tokens && core_.RunOnce()) {
    }
    const int64_t end_us = clock_.NowUs();
    *measured_tokens = received - before;
    CHECK(*measured_tokens == num_streams * num_tokens) << *measured_tokens << " tokens";
    core_.CancelAll(CancelReason::kClient);
    while (core_.RunOnce()) {
    }
    return static_cast<double>(end_us - begin_us) * 1e-6;
  }

 private:
  std::vector<TokenId> RandomPrompt(int64_t num_tokens, std::mt19937* rng) const {
    std::vector<TokenId> prompt(static_cast<size_t>(num_tokens));
    for (TokenId& token : prompt) {
      token = static_cast<TokenId>((*rng)() % static_cast<uint64_t>(models_[0].vocab_size));
    }
    return prompt;
  }

  void Submit(std::vector<TokenId> prompt, bool cached, int64_t max_tokens, int64_t* received) {
    auto request = std::make_unique<Request>();
    request->id = next_id_++;
    request->prompt = std::move(prompt);
    request->stopping.max_tokens = max_tokens;
    request->sampling.temperature = 0.0f;
    request->bypass_prefix = !cached;
    request->arrival_us = clock_.NowUs();
    request->sink = std::make_shared<CountSink>(received);
    core_.Submit(std::move(request));
  }

  bool AnyWithoutFirstToken() const {
    if (!core_.scheduler().waiting().empty()) return true;
    for (const Sequence* s : core_.scheduler().running()) {
      if (s->first_token_us == 0) return true;
    }
    return core_.scheduler().running().empty();
  }

  SteadyClock clock_;
  const std::vector<EngineModel> models_;
  EngineStats stats_;
  EngineCore core_;
  std::mt19937 rng_{1};
  uint64_t next_id_ = 1;
};

int Main(const std::map<std::string, std::string>& flags) {
  AssembleOptions options;
  options.models = {{"model", flags.at("--model")}};
  if (flags.count("--threads") > 0 &&
      !absl::SimpleAtoi(flags.at("--threads"), &options.num_threads)) {
    std::cerr << "--threads wants a number\n";
    return 2;
  }
  if (flags.count("--backend") > 0) options.backend = flags.at("--backend");
  if (!ReadName(flags, "--dtype", WeightDtypes(), &options.weight_dtype) ||
      !ReadName(flags, "--kv-dtype", KvDtypes(), &options.kv_dtype)) {
    return 2;
  }
  options.engine.max_num_seqs = kMaxSeqs;
  options.engine.max_num_batched_tokens = kStepTokens;
  options.engine.target_step_us = 0;
  options.max_model_len = 8192;
  options.kv_cache_bytes = int64_t{2} << 30;
  auto plan = PlanMemory(options);
  if (!plan.ok()) {
    std::cerr << plan.status() << "\n";
    return 2;
  }
  auto device = Assemble(options, *plan);
  if (!device.ok()) {
    std::cerr << device.status() << "\n";
    return 2;
  }
  std::printf("{\"ready\": true, \"backend\": \"%s\", \"threads\": %d}\n",
              device->backend_name.c_str(), device->num_threads);
  std::fflush(stdout);
  Bench bench(*std::move(device));
  std::string line;
  while (std::getline(std::cin, line)) {
    std::istringstream in(line);
    std::string verb;
    int64_t a = 0, b = 0, c = 0;
    in >> verb >> a >> b >> c;
    int64_t tokens = a;
    double seconds = 0.0;
    if (verb == "prefill" && a > 0) {
      seconds = bench.Prefill(a);
    } else if (verb == "decode" && a > 0 && a <= kMaxSeqs && b > 0 && c > 0) {
      seconds = bench.Decode(a, b, c, &tokens);
    } else {
      std::cerr << "cannot read this case: " << line << "\n";
      return 2;
    }
    std::printf("{\"case\": \"%s\", \"tokens\": %lld, \"seconds\": %.6f, \"tokens_per_s\": %.3f}\n",
                line.c_str(), static_cast<long long>(tokens), seconds,
                static_cast<double>(tokens) / seconds);
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  std::map<std::string, std::string> flags;
  for (int i = 1; i + 1 < argc; i += 2) flags[argv[i]] = argv[i + 1];
  if (flags.count("--model") == 0) {
    std::cerr << "usage: tessera_engine_bench --model DIR [--threads N] [--backend NAME]\n"
                 "                            [--dtype NAME] [--kv-dtype NAME]\n";
    return 2;
  }
  tessera::InitLogging("warn");
  return tessera::Main(flags);
}
