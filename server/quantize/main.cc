// tessera-quantize: quantises a model folder with calibration text. `tessera quantize` runs it. It
// prints its progress to stderr. Exit status: 0 success, 1 the work failed, 2 wrong command line.

#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/clock.h"
#include "kernels/base/cores.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "kernels/base/thread_team.h"
#include "kernels/model/quantize/quantize_folder.h"
#include "server/cli/arguments.h"
#include "server/quantize/calibration_text.h"
#include "server/text/tokenizer/tokenizer.h"

namespace tessera {
namespace {

constexpr int kFailed = 1;
constexpr int kUsage = 2;
constexpr double kMaxDamping = 1.0;
constexpr int32_t kMaxGroup = 4096;
constexpr int32_t kMaxSequence = 8192;
constexpr int32_t kMaxTokens = 1 << 20;

std::vector<cli::FlagSpec> Flags() {
  return {
      {"--text", "FILE", "calibration text in UTF-8, as the model will see it (needed)"},
      {"--out", "DIR", "new folder of the quantised model (needed)"},
      {"--bits", "BITS", "bits of a weight, 4 or 8 (4)"},
      {"--group-size", "SIZE",
       "weights that share a scale (the largest of 128, 64 and 32 that divides all matrices)"},
      {"--asymmetric", nullptr, "give each group a zero point"},
      {"--tokens", "COUNT", "tokens of calibration text (16384)"},
      {"--sequence-tokens", "COUNT", "tokens of a calibration sequence (512)"},
      {"--damping", "SHARE", "trust the calibration text less: above 0, to 1 (0.01)"},
      {"--drift", "SHARE", "share of the correction for earlier layers' errors, 0 to 1 (0.5)"},
      {"--threads", "COUNT", "compute threads (all cores)"},
      {"--backend", "NAME", "instruction set (the best of this machine)"},
      {"--help", nullptr, "print this help"},
  };
}

struct Command {
  std::string model;
  std::string text;
  std::string out;
  int32_t num_threads = 0;
  CalibrationOptions calibration;
  QuantizeOptions options;
};

// Sets *value if the flag was given. Returns an error if the number is not in [low, high].
template <class T>
absl::Status ReadNumber(const cli::Arguments& arguments, const std::string& flag, T low, T high,
                        T* value) {
  std::optional<T> given;
  RETURN_IF_ERROR(arguments.Read(flag, &given));
  if (!given.has_value()) return absl::OkStatus();
  if (!(*given >= low && *given <= high)) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, " is ", *given, "; give a number from ", low, " to ", high));
  }
  *value = *given;
  return absl::OkStatus();
}

absl::StatusOr<Command> Read(const cli::Arguments& arguments) {
  Command command;
  if (arguments.positional().size() != 1) {
    return absl::InvalidArgumentError("give one MODEL, a folder in Hugging Face layout");
  }
  command.model = arguments.positional()[0];
  command.text = arguments.Text("--text").value_or("");
  command.out = arguments.Text("--out").value_or("");
  if (command.text.empty() || command.out.empty()) {
    return absl::InvalidArgumentError("--text and --out are needed");
  }
  int32_t bits = 4;
  RETURN_IF_ERROR(ReadNumber(arguments, "--bits", 4, 8, &bits));
  if (bits != 4 && bits != 8) return absl::InvalidArgumentError("--bits is 4 or 8");
  WeightFormat& format = command.options.format;
  format = bits == 8 ? DType::kI8 : DType::kI4;
  format.asymmetric = arguments.Has("--asymmetric");
  if (arguments.Has("--group-size")) {
    RETURN_IF_ERROR(
        ReadNumber(arguments, "--group-size", kGroupGranule, kMaxGroup, &format.group_size));
    if (format.group_size % kGroupGranule != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("--group-size is a multiple of ", kGroupGranule));
    }
  }
  auto sequence = static_cast<int32_t>(command.calibration.sequence_tokens);
  auto tokens = static_cast<int32_t>(command.calibration.num_tokens);
  RETURN_IF_ERROR(ReadNumber(arguments, "--sequence-tokens", 32, kMaxSequence, &sequence));
  RETURN_IF_ERROR(ReadNumber(arguments, "--tokens", sequence, kMaxTokens, &tokens));
  command.calibration.sequence_tokens = sequence;
  command.calibration.num_tokens = tokens;
  RETURN_IF_ERROR(ReadNumber(arguments, "--damping", 1e-6, kMaxDamping, &command.options.damping));
  RETURN_IF_ERROR(ReadNumber(arguments, "--drift", 0.0, 1.0, &command.options.drift));
  command.num_threads = static_cast<int32_t>(NumUsableCores());
  RETURN_IF_ERROR(ReadNumber(arguments, "--threads", 1, 1024, &command.num_threads));
  command.options.backend = arguments.Text("--backend").value_or("");
  return command;
}

absl::Status Quantize(const Command& command) {
  RETURN_IF_ERROR(CheckNewFolder(command.out));
  ASSIGN_OR_RETURN(const std::string text, cli::ReadFile(command.text));
  ASSIGN_OR_RETURN(const auto tokenizer, LoadTokenizer(command.model));
  ASSIGN_OR_RETURN(const auto sequences,
                   CalibrationSequences(*tokenizer, text, command.calibration));
  int64_t num_tokens = 0;
  for (const auto& sequence : sequences) num_tokens += static_cast<int64_t>(sequence.size());
  absl::FPrintF(stderr, "calibrating with %d tokens in %d sequences\n", num_tokens,
                sequences.size());
  ThreadTeam team(command.num_threads);
  const SteadyClock clock;
  const int64_t begin_us = clock.NowUs();
  const auto progress = [&](const QuantizeProgress& done) {
    const double seconds = static_cast<double>(clock.NowUs() - begin_us) / 1e6;
    const double left = seconds / done.num_layers_done * (done.num_layers - done.num_layers_done);
    absl::FPrintF(stderr,
                  "layer %d of %d: largest relative error %.5f; %.0f s, about %.0f s left\n",
                  done.num_layers_done, done.num_layers, done.worst_error, seconds, left);
  };
  RETURN_IF_ERROR(
      QuantizeFolder(command.model, sequences, command.options, &team, progress, command.out));
  absl::PrintF("%s\n", command.out);
  return absl::OkStatus();
}

int Fail(const absl::Status& status, int code) {
  absl::FPrintF(stderr, "tessera quantize: %s\n", status.message());
  return code;
}

int Main(const std::vector<std::string>& words) {
  const absl::StatusOr<cli::Arguments> arguments = cli::Arguments::Parse(words, Flags());
  if (!arguments.ok()) return Fail(arguments.status(), kUsage);
  if (arguments->Has("--help")) {
    absl::PrintF(
        "tessera quantize MODEL --text FILE --out DIR [flags]\n\nQuantises a model with "
        "calibration "
        "text and writes a compressed-tensors folder.\n\n%s",
        cli::FlagHelp(Flags()));
    return 0;
  }
  const absl::StatusOr<Command> command = Read(*arguments);
  if (!command.ok()) return Fail(command.status(), kUsage);
  const absl::Status status = Quantize(*command);
  return status.ok() ? 0 : Fail(status, kFailed);
}

}  // namespace
}  // namespace tessera

int main(int argc, char** argv) {
  tessera::InitLogging("warn");
  return tessera::Main({argv + 1, argv + argc});
}
