// The main function of tessera-bench, which sends load over gRPC. Figures go to stdout, progress
// and errors to stderr.
#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/serve/load.h"
#include "bench/serve/options.h"
#include "bench/serve/progress.h"
#include "bench/serve/report.h"
#include "kernels/base/status.h"
#include "kernels/base/version.h"
#include "server/cli/channel.h"
#include "server/cli/interrupts.h"
#include "tessera/v1/control.grpc.pb.h"

namespace tessera::bench {
namespace {

constexpr int kOk = 0;
constexpr int kFailed = 1;
constexpr int kUsage = 2;
// Deadline of the ListModels call before the load.
constexpr std::chrono::seconds kAnswerPatience(10);

int Complain(int exit_status, absl::string_view message) {
  std::fprintf(stderr, "tessera-bench: %s\n", std::string(message).c_str());
  return exit_status;
}

// Asks the server for the vocabulary size and the context length of the model. With --vocab-size an
// error of the server is ignored, unless the server is unreachable or does not know the caller.
absl::Status AskForModel(const std::shared_ptr<grpc::Channel>& channel, BenchOptions* options) {
  const std::unique_ptr<v1::Control::Stub> control = v1::Control::NewStub(channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kAnswerPatience);
  v1::ListModelsResponse models;
  const grpc::Status status = control->ListModels(&context, {}, &models);
  const bool hopeless = status.error_code() == grpc::StatusCode::UNAVAILABLE ||
                        status.error_code() == grpc::StatusCode::UNAUTHENTICATED;
  if (!status.ok() && (hopeless || options->workload.vocab_size == 0)) {
    return absl::UnavailableError(
        absl::StrCat(cli::FailureText(status, options->connection),
                     hopeless ? "" : "\n  with --vocab-size N the server is not asked"));
  }
  const v1::GenerateRequest& base = options->client.base;
  for (const v1::ModelInfo& model : models.models()) {
    if (base.has_model() ? model.name() != base.model() : !model.is_default()) continue;
    if (options->workload.vocab_size == 0) options->workload.vocab_size = model.vocab_size();
    if (options->workload.vocab_size < 1) return absl::InvalidArgumentError("give --vocab-size N");
    const int64_t longest = MaxTokens(options->workload);
    if (longest > model.max_model_len()) {
      return absl::InvalidArgumentError(
          absl::StrCat("prompt and answer take up to ", longest, " tokens, the model's context is ",
                       model.max_model_len(), "; lower ",
                       options->workload.kind == WorkloadKind::kPrefix ? "--prefix-tokens, " : "",
                       "--input-tokens or --output-tokens"));
    }
    return absl::OkStatus();
  }
  if (!status.ok()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the server has no model '", base.model(), "'"));
}

int Print(const Report& report, const BenchOptions& options, std::ofstream* json) {
  std::fputs(ReportTable(report, options.slo).c_str(), stdout);
  std::fflush(stdout);
  if (options.json_path.empty()) return kOk;
  *json << ReportJson(report) << std::flush;
  if (*json) return kOk;
  return Complain(kFailed, absl::StrCat("cannot write '", options.json_path, "'"));
}

int Run(BenchOptions options) {
  // The file is opened before the load, so that a wrong path is an error before the run and not
  // after it.
  std::ofstream json;
  if (!options.json_path.empty()) {
    json.open(options.json_path);
    if (!json) {
      return Complain(
          kUsage, absl::StrCat("--json: cannot write '", options.json_path, "'; check the path"));
    }
  }
  std::mutex mutex;
  Load* running = nullptr;
  bool interrupted = false;
  const cli::Interrupts interrupts([&] {
    std::lock_guard<std::mutex> lock(mutex);
    // A second interrupt, or an interrupt before the start of the load, ends the program.
    if (running == nullptr || interrupted) return false;
    interrupted = true;
    running->Interrupt();
    return true;
  });
  const std::shared_ptr<grpc::Channel> channel = cli::NewChannel(options.connection);
  if (const absl::Status status = AskForModel(channel, &options); !status.ok()) {
    return Complain(absl::IsInvalidArgument(status) ? kUsage : kFailed, status.message());
  }
  const Workload workload(options.workload);
  RunRecords records;
  {
    Load load(options.load, &workload, channel, options.client);
    std::unique_ptr<ProgressLine> progress;
    if (!options.quiet) {
      progress = std::make_unique<ProgressLine>([&load] { return load.Progress(); });
    }
    {
      std::lock_guard<std::mutex> lock(mutex);
      running = &load;
    }
    records = load.Run();
    std::lock_guard<std::mutex> lock(mutex);
    running = nullptr;
  }
  Report report = MakeReport(records, options.slo);
  report.tenant = options.tenant;
  if (const int failed = Print(report, options, &json); failed != kOk) return failed;
  if (interrupted) return cli::kInterrupted;
  return report.requests > report.errors ? kOk : kFailed;
}

int Main(const std::vector<std::string>& words) {
  BenchOptions options;
  const absl::StatusOr<Action> action = ParseOptions(words, &options);
  if (!action.ok()) return Complain(kUsage, action.status().message());
  if (*action == Action::kHelp) {
    std::fputs(HelpText().c_str(), stdout);
    return kOk;
  }
  if (*action == Action::kVersion) {
    std::printf("tessera-bench %s\n", kVersion);
    return kOk;
  }
  cli::MuteTransportLog();
  return Run(std::move(options));
}

}  // namespace
}  // namespace tessera::bench

int main(int argc, char** argv) {
  return tessera::bench::Main(std::vector<std::string>(argv + 1, argv + argc));
}
