// Measures the engine without a server, for comparisons with other engines (bench/peers.py) and of
// adapters (bench/adapters.py). The program loads a model once, then reads cases from stdin and
// answers each with one JSON line:
//
//   prefill TOKENS
//       the first token of a prompt of TOKENS tokens, without a prefix hit
//   decode STREAMS CONTEXT TOKENS [ADAPTERS [PROBES]]
//       TOKENS tokens of each stream after a prompt of CONTEXT tokens, while PROBES probes a second
//       (default 0) ask for a prefix
//   loop STREAMS REQUESTS MIN_INPUT MAX_INPUT MIN_OUTPUT MAX_OUTPUT ADAPTERS SEED
//       a closed loop of STREAMS clients with lengths uniform in [MIN, MAX]
//
// The requests use the first ADAPTERS adapters below --adapters, in the order of their names; 0
// selects the base model.
#include <algorithm>
#include <array>
#include <cstdio>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "bench/engine_cases.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "scheduler/device/assemble.h"
#include "scheduler/residency/adapters/adapter_registry.h"

namespace tessera::bench {
namespace {

constexpr char kUsage[] =
    "usage: tessera_engine_bench --model DIR [--threads N] [--backend ref|ISA]\n"
    "           [--dtype auto|float32|bfloat16|int8|int5|int4] [--activations auto|bfloat16|int8]\n"
    "           [--kv-dtype auto|float32|bfloat16|int8]\n"
    "           [--kv-cache-bytes N] [--adapters DIR] [--adapter-dtype "
    "auto|float32|bfloat16|int8]\n"
    "           [--adapter-host-bytes N] [--adapter-pages N] [--pack-cache DIR]\n"
    "--adapter-pages sets that many pages aside for adapters alone: a fixed split, to compare "
    "with\n"
    "one pool. Cases come from stdin: see the head of bench/engine_bench.cc.\n";

constexpr int32_t kMaxSeqs = 64;
constexpr int32_t kStepTokens = 512;
constexpr int64_t kLongestContext = 8192;
constexpr int64_t kMaxProbes = 100'000;  // probes per second

using Flags = std::map<std::string, std::string>;

template <class T>
using Names = std::map<std::string, T>;

const Names<WeightDtype>& WeightDtypes() {
  static const Names<WeightDtype> names = {
      {"auto", WeightDtype::kAuto},     {"float32", WeightDtype::kF32},
      {"bfloat16", WeightDtype::kBF16}, {"int8", WeightDtype::kI8},
      {"int5", WeightDtype::kI5},       {"int4", WeightDtype::kI4}};
  return names;
}

const Names<ActivationDtype>& ActivationDtypes() {
  static const Names<ActivationDtype> names = {{"auto", ActivationDtype::kAuto},
                                               {"bfloat16", ActivationDtype::kBF16},
                                               {"int8", ActivationDtype::kI8}};
  return names;
}

const Names<KvDtype>& KvDtypes() {
  static const Names<KvDtype> names = {{"auto", KvDtype::kAuto},
                                       {"float32", KvDtype::kF32},
                                       {"bfloat16", KvDtype::kBF16},
                                       {"int8", KvDtype::kI8}};
  return names;
}

const Names<AdapterDtype>& AdapterDtypes() {
  static const Names<AdapterDtype> names = {{"auto", AdapterDtype::kAuto},
                                            {"float32", AdapterDtype::kF32},
                                            {"bfloat16", AdapterDtype::kBF16},
                                            {"int8", AdapterDtype::kI8}};
  return names;
}

// Sets *value to the entry of `names` that the flag names. Without the flag *value stays.
template <class T>
absl::Status ReadName(const Flags& flags, const std::string& flag, const Names<T>& names,
                      T* value) {
  const auto given = flags.find(flag);
  if (given == flags.end()) return absl::OkStatus();
  const auto named = names.find(given->second);
  if (named == names.end()) {
    return absl::InvalidArgumentError(flag + " does not know '" + given->second + "'");
  }
  *value = named->second;
  return absl::OkStatus();
}

template <class T>
absl::Status ReadNumber(const Flags& flags, const std::string& flag, T* value) {
  const auto given = flags.find(flag);
  if (given == flags.end() || absl::SimpleAtoi(given->second, value)) return absl::OkStatus();
  return absl::InvalidArgumentError(flag + " wants a number");
}

absl::StatusOr<AssembleOptions> ReadOptions(const Flags& flags) {
  AssembleOptions options;
  if (flags.count("--model") == 0) return absl::InvalidArgumentError("--model is needed");
  options.models = {{"model", flags.at("--model")}};
  options.kv_cache_bytes = int64_t{2} << 30;
  if (flags.count("--backend") > 0) options.backend = flags.at("--backend");
  RETURN_IF_ERROR(ReadNumber(flags, "--threads", &options.num_threads));
  RETURN_IF_ERROR(ReadName(flags, "--dtype", WeightDtypes(), &options.weight_dtype));
  RETURN_IF_ERROR(ReadName(flags, "--activations", ActivationDtypes(), &options.activations));
  RETURN_IF_ERROR(ReadName(flags, "--kv-dtype", KvDtypes(), &options.kv_dtype));
  RETURN_IF_ERROR(ReadName(flags, "--adapter-dtype", AdapterDtypes(), &options.adapter_dtype));
  RETURN_IF_ERROR(ReadNumber(flags, "--kv-cache-bytes", &options.kv_cache_bytes));
  RETURN_IF_ERROR(ReadNumber(flags, "--adapter-host-bytes", &options.engine.adapter_host_bytes));
  if (flags.count("--pack-cache") > 0) options.pack_cache.dir = flags.at("--pack-cache");
  options.engine.max_num_seqs = kMaxSeqs;
  options.engine.max_num_batched_tokens = kStepTokens;
  options.engine.target_step_us = 0;
  ASSIGN_OR_RETURN(const ModelSpec spec, LoadModelSpec(options.models[0].dir));
  options.max_model_len = std::min(kLongestContext, spec.max_positions);
  return options;
}

// Registers the adapters below --adapters and returns them in the order of their names.
absl::StatusOr<std::vector<ResolvedAdapter>> ReadAdapters(const Flags& flags,
                                                          AdapterRegistry* registry) {
  std::vector<ResolvedAdapter> adapters;
  if (flags.count("--adapters") == 0) return adapters;
  ASSIGN_OR_RETURN(const std::vector<AdapterSource> sources,
                   FindAdapters(flags.at("--adapters"), 0));
  RETURN_IF_ERROR(registry->Register(sources));
  for (const AdapterSource& source : sources) {
    ASSIGN_OR_RETURN(ResolvedAdapter adapter, registry->Resolve(0, {{source.name, "", {}}}));
    adapters.push_back(std::move(adapter));
  }
  return adapters;
}

absl::StatusOr<Measured> RunCase(const std::string& line, EngineCases* cases) {
  std::istringstream in(line);
  std::string verb;
  in >> verb;
  std::array<int64_t, 8> n{};
  size_t given = 0;
  while (given < n.size() && in >> n[given]) ++given;
  const auto has_adapters = [&](int64_t count) {
    return count >= 0 && count <= cases->num_adapters();
  };
  if (verb == "prefill" && given == 1 && n[0] > 0) return cases->Prefill(n[0]);
  if (verb == "decode" && given >= 3 && n[0] > 0 && n[0] <= kMaxSeqs && n[1] > 0 && n[2] > 0 &&
      has_adapters(n[3]) && n[4] >= 0 && n[4] <= kMaxProbes) {
    return cases->Decode({n[0], n[1], n[2], n[3], n[4]});
  }
  if (verb == "loop" && given == 8 && n[0] > 0 && n[1] > 0 && n[2] > 0 && n[2] <= n[3] &&
      n[4] > 0 && n[4] <= n[5] && has_adapters(n[6])) {
    return cases->Run({n[0], n[1], n[2], n[3], n[4], n[5], n[6], static_cast<uint32_t>(n[7])});
  }
  return absl::InvalidArgumentError(
      "cannot read this case, or it has more adapters than there "
      "are: " +
      line);
}

absl::Status Answer(const Flags& flags) {
  ASSIGN_OR_RETURN(const AssembleOptions options, ReadOptions(flags));
  ASSIGN_OR_RETURN(const MemoryPlan plan, PlanMemory(options));
  ASSIGN_OR_RETURN(Device device, Assemble(options, plan));
  ASSIGN_OR_RETURN(std::vector<ResolvedAdapter> adapters,
                   ReadAdapters(flags, device.adapters.get()));
  int64_t adapter_pages = -1;
  RETURN_IF_ERROR(ReadNumber(flags, "--adapter-pages", &adapter_pages));
  if (adapter_pages >= 0 && !device.kv->SetAsideForAdapters(0, adapter_pages)) {
    return absl::InvalidArgumentError("--adapter-pages asks for more than the pool has");
  }
  std::printf(
      "{\"ready\": true, \"backend\": \"%s\", \"threads\": %d, \"adapters\": %zu, "
      "\"pages\": %lld, \"page_bytes\": %lld}\n",
      device.backend_name.c_str(), device.num_threads, adapters.size(),
      static_cast<long long>(plan.num_slabs / plan.models[0].layout.slabs_per_page - 1),
      static_cast<long long>(plan.models[0].layout.page_bytes()));
  std::fflush(stdout);
  EngineCases cases(std::move(device), std::move(adapters));
  for (std::string line; std::getline(std::cin, line);) {
    ASSIGN_OR_RETURN(const Measured measured, RunCase(line, &cases));
    std::printf(
        "{\"case\": \"%s\", \"tokens\": %lld, \"seconds\": %.6f, \"tokens_per_s\": %.3f, "
        "\"adapter_loads\": %lld, \"preemptions\": %lld}\n",
        line.c_str(), static_cast<long long>(measured.tokens), measured.seconds,
        static_cast<double>(measured.tokens) / measured.seconds,
        static_cast<long long>(measured.adapter_loads),
        static_cast<long long>(measured.preemptions));
    std::fflush(stdout);
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace tessera::bench

int main(int argc, char** argv) {
  std::map<std::string, std::string> flags;
  for (int i = 1; i + 1 < argc; i += 2) flags[argv[i]] = argv[i + 1];
  tessera::InitLogging("warn");
  const absl::Status status = tessera::bench::Answer(flags);
  if (status.ok()) return 0;
  std::cerr << status.message() << "\n" << tessera::bench::kUsage;
  return 2;
}
