#include "bench/serve/options.h"

#include <cmath>
#include <limits>
#include <optional>
#include <set>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "server/cli/arguments.h"
#include "server/cli/connection.h"
#include "server/cli/request_flags.h"

namespace tessera::bench {
namespace {

using cli::Arguments;
using cli::FlagSpec;

constexpr double kDefaultSeconds = 60;
constexpr double kMaxNumber = 1e9;  // upper bound of seconds, milliseconds, requests per second
constexpr int64_t kMaxConcurrency = 1 << 16;
constexpr int64_t kMaxPrefixes = 1 << 16;

std::vector<FlagSpec> OwnFlags() {
  std::vector<FlagSpec> flags = cli::ConnectionFlags();
  const std::vector<FlagSpec> own = {
      {"--workload", "NAME", "random (default): no shared prefixes; prefix: groups share a prefix"},
      {"--concurrency", "C", "closed loop: C clients, each waits for its answer"},
      {"--rate", "R", "open loop: R requests per second, whatever the answers do"},
      {"--arrivals", "KIND", "arrivals of the open loop: poisson (default) or uniform"},
      {"--duration", "SECONDS",
       "stop sending after this time (60, unless --num-requests is given)"},
      {"--num-requests", "N", "stop sending after N requests"},
      {"--input-tokens", "N|A:B", "length of a prompt, without its shared prefix (128)"},
      {"--output-tokens", "N|A:B", "length of an answer (64)"},
      {"--num-prefixes", "N", "number of groups of the workload prefix (4)"},
      {"--prefix-tokens", "N|A:B", "length of the groups' prefixes (512)"},
      {"--slo-ttft", "MS", "limit of a good request's time to first token"},
      {"--slo-itl", "MS", "limit of a good request's mean time between tokens"},
      {"--warmup", "N", "requests before the run that are not counted (1)"},
      {"--seed", "N", "seed of arrivals, lengths, token ids and sampling (0)"},
      {"--vocab-size", "N", "draw token ids below N (default: the model's vocabulary size)"},
      {"--timeout", "SECONDS", "deadline of a request, from the time at which it is due (600)"},
      {"--tenant", "NAME", "a label for the report; the token or certificate chooses the tenant"},
      {"--json", "FILE", "write the figures to FILE"},
      {"--quiet", nullptr, "print no progress on stderr"},
      {"--help", nullptr, "print this help"},
      {"--version", nullptr, "print the version"},
  };
  flags.insert(flags.end(), own.begin(), own.end());
  return flags;
}

// The request flags of the `tessera` client that apply to a load.
std::vector<FlagSpec> RequestFlags() {
  static constexpr const char* kNames[] = {"--model", "--temperature", "--top-k",
                                           "--top-p", "--min-p",       "--bypass-prefix",
                                           "--salt",  "--priority",    "--logprobs"};
  std::vector<FlagSpec> flags;
  for (const FlagSpec& spec : cli::RequestFlags()) {
    for (const char* name : kNames) {
      if (std::string(name) == spec.name) flags.push_back(spec);
    }
  }
  return flags;
}

// Flags of later releases, which are refused by name.
std::vector<FlagSpec> LaterFlags() {
  return {{"--trace", "FILE", ""}, {"--replay-speed", "X", ""}, {"--html", "FILE", ""}};
}

template <class T>
absl::Status ReadBetween(const Arguments& arguments, const std::string& flag, T min, T max,
                         T* value) {
  std::optional<T> number;
  RETURN_IF_ERROR(arguments.Read(flag, &number));
  if (!number) return absl::OkStatus();
  if (!(*number >= min && *number <= max)) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, " is '", *arguments.Text(flag), "'; give ", min, " to ", max));
  }
  *value = *number;
  return absl::OkStatus();
}

// Reads a number above 0. Without the flag *value stays.
absl::Status ReadPositive(const Arguments& arguments, const std::string& flag, double* value) {
  std::optional<double> number;
  RETURN_IF_ERROR(arguments.Read(flag, &number));
  if (!number) return absl::OkStatus();
  if (!(*number > 0 && *number <= kMaxNumber)) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, " is '", *arguments.Text(flag), "'; give a number above 0"));
  }
  *value = *number;
  return absl::OkStatus();
}

absl::Status ReadLengths(const Arguments& arguments, const std::string& flag, LengthRange* range) {
  const std::optional<std::string> text = arguments.Text(flag);
  if (!text) return absl::OkStatus();
  ASSIGN_OR_RETURN(*range, ParseLengths(flag, *text));
  return absl::OkStatus();
}

absl::Status ReadWorkload(const Arguments& arguments, WorkloadOptions* workload) {
  if (const auto text = arguments.Text("--workload")) {
    ASSIGN_OR_RETURN(workload->kind, ParseWorkloadKind(*text));
  }
  if (workload->kind != WorkloadKind::kPrefix) {
    for (const char* flag : {"--num-prefixes", "--prefix-tokens"}) {
      if (arguments.Has(flag)) {
        return absl::InvalidArgumentError(absl::StrCat(flag, " is for --workload prefix"));
      }
    }
  }
  RETURN_IF_ERROR(ReadLengths(arguments, "--input-tokens", &workload->input));
  RETURN_IF_ERROR(ReadLengths(arguments, "--output-tokens", &workload->output));
  RETURN_IF_ERROR(ReadLengths(arguments, "--prefix-tokens", &workload->prefix));
  RETURN_IF_ERROR(
      ReadBetween<int64_t>(arguments, "--num-prefixes", 1, kMaxPrefixes, &workload->num_prefixes));
  return ReadBetween<int64_t>(arguments, "--vocab-size", 1, std::numeric_limits<int32_t>::max(),
                              &workload->vocab_size);
}

absl::Status ReadLoad(const Arguments& arguments, LoadOptions* load) {
  if (arguments.Has("--concurrency") == arguments.Has("--rate")) {
    return absl::InvalidArgumentError(
        "give either --concurrency C (closed loop) or --rate R (open loop)");
  }
  if (arguments.Has("--arrivals") && !arguments.Has("--rate")) {
    return absl::InvalidArgumentError("--arrivals is for --rate");
  }
  if (const auto text = arguments.Text("--arrivals")) {
    ASSIGN_OR_RETURN(load->arrivals, ParseArrivalKind(*text));
  }
  RETURN_IF_ERROR(
      ReadBetween<int64_t>(arguments, "--concurrency", 1, kMaxConcurrency, &load->concurrency));
  RETURN_IF_ERROR(ReadPositive(arguments, "--rate", &load->rate));
  load->duration_seconds = arguments.Has("--num-requests") ? 0 : kDefaultSeconds;
  RETURN_IF_ERROR(ReadPositive(arguments, "--duration", &load->duration_seconds));
  RETURN_IF_ERROR(ReadBetween<int64_t>(arguments, "--num-requests", 1,
                                       std::numeric_limits<int64_t>::max(), &load->num_requests));
  load->num_warmup = 1;
  return ReadBetween<int64_t>(arguments, "--warmup", 0, 1 << 20, &load->num_warmup);
}

absl::Status ReadSlo(const Arguments& arguments, Slo* slo) {
  for (const auto& [flag, limit] :
       {std::pair("--slo-ttft", &slo->ttft_ms), std::pair("--slo-itl", &slo->itl_ms)}) {
    double ms = 0;
    RETURN_IF_ERROR(ReadPositive(arguments, flag, &ms));
    if (ms > 0) *limit = ms;
  }
  return absl::OkStatus();
}

absl::Status ReadClient(const Arguments& arguments, uint64_t seed, ClientOptions* client) {
  RETURN_IF_ERROR(ReadPositive(arguments, "--timeout", &client->deadline_seconds));
  v1::GenerateRequest* base = &client->base;
  RETURN_IF_ERROR(cli::ApplyRequestFlags(arguments, base));
  if (!base->sampling().has_temperature()) base->mutable_sampling()->set_temperature(0);
  base->mutable_sampling()->set_seed(seed);
  base->mutable_stopping()->set_ignore_eos(true);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Action> ParseOptions(const std::vector<std::string>& words, BenchOptions* options) {
  std::vector<FlagSpec> flags = OwnFlags();
  for (const std::vector<FlagSpec>& more : {RequestFlags(), LaterFlags()}) {
    flags.insert(flags.end(), more.begin(), more.end());
  }
  ASSIGN_OR_RETURN(const Arguments arguments, Arguments::Parse(words, flags));
  if (arguments.Has("--help")) return Action::kHelp;
  if (arguments.Has("--version")) return Action::kVersion;
  if (!arguments.positional().empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", arguments.positional().front(), "' is no flag; see --help"));
  }
  RETURN_IF_ERROR(ReadWorkload(arguments, &options->workload));
  for (const FlagSpec& later : LaterFlags()) {
    if (!arguments.Has(later.name)) continue;
    return absl::UnimplementedError(absl::StrCat(later.name, " comes in a later release"));
  }
  RETURN_IF_ERROR(ReadLoad(arguments, &options->load));
  RETURN_IF_ERROR(ReadSlo(arguments, &options->slo));
  std::optional<uint64_t> seed;
  RETURN_IF_ERROR(arguments.Read("--seed", &seed));
  options->workload.seed = options->load.seed = seed.value_or(0);
  RETURN_IF_ERROR(ReadClient(arguments, seed.value_or(0), &options->client));
  if (const auto tenant = arguments.Text("--tenant")) {
    if (tenant->empty()) return absl::InvalidArgumentError("--tenant is empty; give a name");
    options->tenant = *tenant;
  }
  ASSIGN_OR_RETURN(options->connection, cli::ReadConnection(arguments));
  options->json_path = arguments.Text("--json").value_or("");
  options->quiet = arguments.Has("--quiet");
  return Action::kRun;
}

std::string HelpText() {
  return absl::StrCat(
      "tessera-bench puts tesserad under load and says how it answers.\n\n"
      "  tessera-bench --concurrency C [flags]     closed loop\n"
      "  tessera-bench --rate R [flags]            open loop\n\n",
      cli::FlagHelp(OwnFlags()), "\nOf each request (the default is greedy):\n",
      cli::FlagHelp(RequestFlags()),
      "\nCtrl-C ends the run and prints what there is. Exit status: 0; 1 when no request "
      "succeeded; "
      "2 for a wrong\ncommand line; 130 after Ctrl-C.\n");
}

}  // namespace tessera::bench
