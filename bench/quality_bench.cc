// Measures what a format of weights, activations and KV cache costs a model, in this process and
// without a tokenizer. The program loads the model in a base format and in other formats beside it,
// reads texts of token ids, and compares the full distributions of the next token at each position.
// It prints one JSON line for each format, the base first:
//
//   weight_bytes, kv_bytes_per_token   size of the packed weights, and of a token's K and V
//   perplexity, change_percent         of the texts, and its change against the base
//   kl, kl_p99                         mean and 99th percentile of KL(base || format)
//   same_best_percent                  share of positions with the base's likeliest next token
//
// A change, a mean KL and a share come with NAME_half_width, the half of its 95 % interval. All
// formats read the same texts, so each figure is a ratio of sums over texts, and the interval
// follows from the differences of the texts by the delta method. It is null for a single text. All
// models are in memory at once, so that the base reads each text only once. tests/lab/quality.py
// --real makes the texts and prints a table. One thread and its team.
//
// With --base-logits the base is another program, which has computed the logits of the texts
// (tests/lab/checkpoints.py), and the base has no line.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <functional>
#include <iostream>
#include <limits>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/cores.h"
#include "kernels/base/log.h"
#include "kernels/base/status.h"
#include "kernels/base/thread_team.h"
#include "kernels/device/backend.h"
#include "kernels/model/checkpoint/weights.h"
#include "kernels/model/model.h"
#include "kernels/model/whole_sequences.h"

namespace tessera::bench {
namespace {

constexpr char kUsage[] =
    "usage: tessera_quality_bench --model DIR --tokens FILE [--base FORMAT | --base-logits FILE]\n"
    "           [--formats FORMAT,...] [--threads N] [--backend ref|ISA]\n"
    "FORMAT is DTYPE[:ACTIVATIONS[:KV]][@DIR], for example int4:bfloat16:int8. With @DIR it is "
    "the\n"
    "format of another model with the same tokens, such as a quantised one. The base is\n"
    "float32:auto:float32 unless --base gives another. Each line of FILE is one text, a JSON "
    "array\n"
    "of 2 to 512 token ids. The file of --base-logits has raw float32, [positions, vocabulary], "
    "for\n"
    "all positions of all texts but the last of each.\n";

constexpr int32_t kMaxTextTokens = 512;
constexpr int32_t kPageTokens = 16;

using Text = std::vector<TokenId>;

struct Format {
  std::string name;  // as it was asked for
  std::string dir;   // folder of the model; empty: that of --model
  WeightDtype weights = WeightDtype::kAuto;
  ActivationDtype activations = ActivationDtype::kAuto;
  // As the server's default: float32 beside float32 weights, otherwise bfloat16.
  bool auto_kv = true;
  DType kv = DType::kF32;
};

template <class T, size_t N>
using Names = std::array<std::pair<const char*, T>, N>;

constexpr Names<WeightDtype, 6> kWeightNames = {{{"auto", WeightDtype::kAuto},
                                                 {"float32", WeightDtype::kF32},
                                                 {"bfloat16", WeightDtype::kBF16},
                                                 {"int8", WeightDtype::kI8},
                                                 {"int5", WeightDtype::kI5},
                                                 {"int4", WeightDtype::kI4}}};
constexpr Names<ActivationDtype, 3> kActivationNames = {{{"auto", ActivationDtype::kAuto},
                                                         {"bfloat16", ActivationDtype::kBF16},
                                                         {"int8", ActivationDtype::kI8}}};
constexpr Names<DType, 3> kKvNames = {
    {{"float32", DType::kF32}, {"bfloat16", DType::kBF16}, {"int8", DType::kI8}}};

template <class T, size_t N>
absl::StatusOr<T> Named(const std::string& name, const char* what, const Names<T, N>& names) {
  std::string known;
  for (const auto& [text, value] : names) {
    if (name == text) return value;
    absl::StrAppend(&known, known.empty() ? "" : ", ", text);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("a format has ", what, " '", name, "'; write one of ", known));
}

absl::StatusOr<Format> ParseFormat(const std::string& text) {
  const size_t at = text.find('@');
  const std::vector<std::string> fields = absl::StrSplit(text.substr(0, at), ':');
  if (fields.size() > 3) {
    return absl::InvalidArgumentError(
        absl::StrCat("the format '", text, "' has more parts than DTYPE:ACTIVATIONS:KV"));
  }
  Format format;
  format.name = text;
  if (at != std::string::npos) format.dir = text.substr(at + 1);
  ASSIGN_OR_RETURN(format.weights, Named(fields[0], "the weights", kWeightNames));
  if (fields.size() > 1) {
    ASSIGN_OR_RETURN(format.activations, Named(fields[1], "the activations", kActivationNames));
  }
  format.auto_kv = fields.size() < 3 || fields[2] == "auto";
  if (!format.auto_kv) {
    ASSIGN_OR_RETURN(format.kv, Named(fields[2], "the KV cache", kKvNames));
  }
  return format;
}

// A model in one format, with pages for one text.
class FormatModel final {
 public:
  static absl::StatusOr<std::unique_ptr<FormatModel>> Load(const std::string& dir,
                                                           const Format& format,
                                                           const std::string& backend,
                                                           ThreadTeam* team);

  // Computes all tokens of a text in one step. REQUIRES: at most kMaxTextTokens tokens.
  void Read(const Text& text);
  // Returns the logits [num_rows, vocab] of positions from `begin` on of the text that was read
  // last. REQUIRES: num_rows <= kLogitBlock.
  std::vector<float> Logits(int32_t begin, int32_t num_rows);

  int32_t vocab_size() const { return model_->spec().vocab_size; }
  // The fields of the result that describe the format.
  nlohmann::ordered_json Describe() const;

 private:
  explicit FormatModel(std::string name) : name_(std::move(name)) {}

  absl::Status LoadWeightsFrom(const std::string& dir, const Format& format, ThreadTeam* team);
  const std::string name_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Model> model_;
  DType activations_ = DType::kF32;
  std::unique_ptr<WholeSequences> sequence_;
};

absl::StatusOr<std::unique_ptr<FormatModel>> FormatModel::Load(const std::string& dir,
                                                               const Format& format,
                                                               const std::string& backend,
                                                               ThreadTeam* team) {
  std::unique_ptr<FormatModel> loaded(new FormatModel(format.name));
  std::string error;
  loaded->backend_ = NewBackend(backend, team, nullptr, &error);
  if (loaded->backend_ == nullptr) return absl::InvalidArgumentError(error);
  RETURN_IF_ERROR(loaded->LoadWeightsFrom(dir, format, team));
  return loaded;
}

absl::Status FormatModel::LoadWeightsFrom(const std::string& dir, const Format& format,
                                          ThreadTeam* team) {
  ASSIGN_OR_RETURN(ModelSpec spec, LoadModelSpec(dir));
  ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::OpenDir(dir));
  UntieStoredHead(*checkpoint, &spec);
  WeightOptions options;
  options.request.dtype = format.weights;
  options.request.activations = format.activations;
  options.team = team;
  ASSIGN_OR_RETURN(const WeightPlan plan, PlanWeights(spec, *checkpoint, options.request));
  activations_ = plan.activations;
  const DType auto_kv = plan.dtype == DType::kF32 ? DType::kF32 : DType::kBF16;
  sequence_ = std::make_unique<WholeSequences>(
      backend_.get(), MakePageLayout(spec, format.auto_kv ? auto_kv : format.kv, kPageTokens),
      /*num_sequences=*/1, kMaxTextTokens);
  if (!sequence_->allocated()) {
    return absl::ResourceExhaustedError(
        "no memory for the KV cache: ask for fewer formats at once");
  }
  ASSIGN_OR_RETURN(ModelWeights weights, LoadWeights(spec, *checkpoint, backend_.get(), options));
  ASSIGN_OR_RETURN(model_,
                   Model::Create(backend_.get(), spec, std::move(weights), {kMaxTextTokens, 1}));
  return absl::OkStatus();
}

void FormatModel::Read(const Text& text) {
  sequence_->Begin(model_.get(), {text});
  model_->RunLayers(0, model_->spec().num_layers);
  model_->Finish();
}

std::vector<float> FormatModel::Logits(int32_t begin, int32_t num_rows) {
  std::vector<int32_t> rows;
  for (int32_t row = begin; row < begin + num_rows; ++row) rows.push_back(row);
  return model_->ComputeLogits(rows);
}

nlohmann::ordered_json FormatModel::Describe() const {
  int64_t page_bytes = 0;
  for (const GroupLayout& group : sequence_->layout().groups) page_bytes += group.page_bytes();
  return {{"format", name_},
          {"weights", DTypeName(model_->weights().dtype)},
          {"activations", DTypeName(activations_)},
          {"kv", DTypeName(sequence_->layout().groups[0].dtype)},
          {"weight_bytes", model_->weights().num_bytes()},
          {"kv_bytes_per_token", page_bytes / kPageTokens}};
}

// A distribution of the next token.
struct Distribution {
  std::vector<double> logprobs;  // [vocab]
  size_t best = 0;               // the likeliest token; the lowest id of equally likely ones
};

void SetDistribution(const float* logits, size_t vocab, Distribution* out) {
  out->best = static_cast<size_t>(std::max_element(logits, logits + vocab) - logits);
  const double largest = logits[out->best];
  double sum = 0.0;
  for (size_t i = 0; i < vocab; ++i) sum += std::exp(logits[i] - largest);
  const double log_sum = largest + std::log(sum);
  out->logprobs.resize(vocab);
  for (size_t i = 0; i < vocab; ++i) out->logprobs[i] = logits[i] - log_sum;
}

// How a format predicts one position.
struct RowScore {
  double loss = 0.0;  // negative log-probability of the token that follows
  double kl = 0.0;    // KL(base || format)
  bool same_best = false;
};

// Sums over the positions of one text.
struct TextScore {
  double positions = 0.0;
  double loss = 0.0;
  double base_loss = 0.0;
  double kl = 0.0;
  double same_best = 0.0;
};

struct FormatScore {
  std::vector<TextScore> texts;
  std::vector<double> kls;  // of all positions
};

// Scores one row for all formats. `logits` [format] are the format's rows; the first format is the
// base.
void ScoreRow(const std::vector<const float*>& logits, size_t vocab, TokenId next,
              std::vector<RowScore>* scores) {
  Distribution base;
  Distribution other;
  SetDistribution(logits[0], vocab, &base);
  std::vector<double> probabilities(vocab);
  for (size_t i = 0; i < vocab; ++i) probabilities[i] = std::exp(base.logprobs[i]);
  for (size_t f = 0; f < logits.size(); ++f) {
    SetDistribution(logits[f], vocab, &other);
    RowScore& score = (*scores)[f];
    score.loss = -other.logprobs[static_cast<size_t>(next)];
    score.same_best = other.best == base.best;
    for (size_t i = 0; i < vocab; ++i) {
      score.kl += probabilities[i] * (base.logprobs[i] - other.logprobs[i]);
    }
  }
}

// Adds the scores of positions [begin, begin + num_rows) of a text to the last text of each format.
// `logits` [format] are the format's [num_rows, vocab]; the first format is the base.
void ScoreBlock(const Text& text, int32_t begin, int32_t num_rows, size_t vocab,
                const std::vector<std::vector<float>>& logits, ThreadTeam* team,
                std::vector<FormatScore>* scores) {
  std::vector<std::vector<RowScore>> rows(static_cast<size_t>(num_rows),
                                          std::vector<RowScore>(logits.size()));
  team->ParallelFor(num_rows, 1, [&](int64_t first, int64_t last, int /*member*/) {
    for (auto row = static_cast<size_t>(first); row < static_cast<size_t>(last); ++row) {
      std::vector<const float*> row_logits;
      row_logits.reserve(logits.size());
      for (const std::vector<float>& of : logits) row_logits.push_back(of.data() + row * vocab);
      ScoreRow(row_logits, vocab, text[static_cast<size_t>(begin) + row + 1], &rows[row]);
    }
  });
  for (const std::vector<RowScore>& row : rows) {
    for (size_t f = 0; f < row.size(); ++f) {
      TextScore& sums = (*scores)[f].texts.back();
      sums.positions += 1.0;
      sums.loss += row[f].loss;
      sums.base_loss += row[0].loss;
      sums.kl += row[f].kl;
      sums.same_best += row[f].same_best ? 1.0 : 0.0;
      (*scores)[f].kls.push_back(row[f].kl);
    }
  }
}

struct Estimate {
  double mean = 0.0;
  double half_width = 0.0;  // of the 95 % interval; NaN for a single text
};

// Estimates the mean over positions of a quantity whose sum over a text is `sum`.
Estimate Mean(const std::vector<TextScore>& texts,
              const std::function<double(const TextScore&)>& sum) {
  double total = 0.0;
  double positions = 0.0;
  for (const TextScore& text : texts) {
    total += sum(text);
    positions += text.positions;
  }
  const double mean = total / positions;
  double squares = 0.0;
  for (const TextScore& text : texts) {
    const double difference = sum(text) - mean * text.positions;
    squares += difference * difference;
  }
  const auto n = static_cast<double>(texts.size());
  return {mean, 1.96 * std::sqrt(squares / (n - 1.0) * n) / positions};  // 0 / 0 is NaN
}

double Percentile(std::vector<double> values, double share) {
  const auto at = static_cast<size_t>(share * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(at), values.end());
  return values[at];
}

nlohmann::ordered_json Report(const FormatModel& model, const FormatScore& score) {
  const Estimate loss = Mean(score.texts, [](const TextScore& text) { return text.loss; });
  const Estimate change =
      Mean(score.texts, [](const TextScore& text) { return text.loss - text.base_loss; });
  const Estimate kl = Mean(score.texts, [](const TextScore& text) { return text.kl; });
  const Estimate same = Mean(score.texts, [](const TextScore& text) { return text.same_best; });
  nlohmann::ordered_json json = model.Describe();
  json["texts"] = score.texts.size();
  json["positions"] = score.kls.size();
  json["perplexity"] = std::exp(loss.mean);
  json["change_percent"] = 100.0 * std::expm1(change.mean);
  json["change_percent_half_width"] = 100.0 * std::exp(change.mean) * change.half_width;
  json["kl"] = kl.mean;
  json["kl_half_width"] = kl.half_width;
  json["kl_p99"] = Percentile(score.kls, 0.99);
  json["same_best_percent"] = 100.0 * same.mean;
  json["same_best_percent_half_width"] = 100.0 * same.half_width;
  return json;
}

absl::StatusOr<Text> ParseText(const std::string& line, int32_t vocab) {
  const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_array() || json.size() < 2 || json.size() > kMaxTextTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("write a JSON array of 2 to ", kMaxTextTokens, " token ids"));
  }
  Text text;
  for (const auto& id : json) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(vocab)) {
      return absl::InvalidArgumentError(
          absl::StrCat(id.dump(), " is no token id of this model; ids are 0 to ", vocab - 1));
    }
    text.push_back(id.get<TokenId>());
  }
  return text;
}

absl::StatusOr<std::vector<Text>> ReadTexts(const std::string& path, int32_t vocab) {
  std::ifstream file(path);
  std::vector<Text> texts;
  for (std::string line; std::getline(file, line);) {
    absl::StatusOr<Text> text = ParseText(line, vocab);
    if (!text.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ":", texts.size() + 1, ": ", text.status().message()));
    }
    texts.push_back(*std::move(text));
  }
  if (texts.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " cannot be read or is empty; give a file with one text a line"));
  }
  return texts;
}

struct Options {
  std::string model;
  std::string tokens;
  std::string backend;
  std::string base_logits;  // if empty, the first format is the base
  int num_threads = 0;
  std::vector<Format> formats;
};

absl::StatusOr<Options> ReadOptions(const std::vector<std::string>& words) {
  std::map<std::string, std::string> flags = {
      {"--model", ""},   {"--tokens", ""},
      {"--backend", ""}, {"--threads", std::to_string(NumUsableCores())},
      {"--base", ""},    {"--base-logits", ""},
      {"--formats", ""}};
  for (size_t i = 0; i < words.size(); i += 2) {
    const auto flag = flags.find(words[i]);
    if (flag == flags.end() || i + 1 == words.size()) {
      return absl::InvalidArgumentError(words[i] + " is no flag, or has no value");
    }
    flag->second = words[i + 1];
  }
  Options options = {flags["--model"], flags["--tokens"], flags["--backend"],
                     flags["--base-logits"]};
  if (options.model.empty() || options.tokens.empty()) {
    return absl::InvalidArgumentError("--model and --tokens are needed");
  }
  if (!absl::SimpleAtoi(flags["--threads"], &options.num_threads) || options.num_threads < 1) {
    return absl::InvalidArgumentError("--threads wants a number of at least 1");
  }
  std::vector<std::string> names = absl::StrSplit(flags["--formats"], ',', absl::SkipEmpty());
  if (options.base_logits.empty()) {
    const std::string& base = flags["--base"];
    names.insert(names.begin(), base.empty() ? "float32:auto:float32" : base);
  } else if (names.empty() || !flags["--base"].empty()) {
    return absl::InvalidArgumentError("--base-logits needs --formats and no --base");
  }
  for (const std::string& name : names) {
    ASSIGN_OR_RETURN(Format format, ParseFormat(name));
    options.formats.push_back(std::move(format));
  }
  return options;
}

// Opens the file of --base-logits, after a check of its size.
absl::StatusOr<std::ifstream> OpenBaseLogits(const std::string& path,
                                             const std::vector<Text>& texts, size_t vocab) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  size_t rows = 0;
  for (const Text& text : texts) rows += text.size() - 1;
  const size_t bytes = rows * vocab * sizeof(float);
  if (!file || static_cast<size_t>(file.tellg()) != bytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, " cannot be read or does not have ", bytes,
                                                   " bytes: ", rows, " positions of ", vocab,
                                                   " float32"));
  }
  file.seekg(0);
  return file;
}

absl::Status Measure(const Options& options) {
  ThreadTeam team(options.num_threads);
  std::vector<std::unique_ptr<FormatModel>> models;
  for (const Format& format : options.formats) {
    const std::string& dir = format.dir.empty() ? options.model : format.dir;
    ASSIGN_OR_RETURN(auto model, FormatModel::Load(dir, format, options.backend, &team));
    if (!models.empty() && model->vocab_size() != models[0]->vocab_size()) {
      return absl::InvalidArgumentError(
          absl::StrCat(dir, " has ", model->vocab_size(), " tokens and the base has ",
                       models[0]->vocab_size(), "; compare models with the same tokens"));
    }
    models.push_back(std::move(model));
  }
  const auto vocab = static_cast<size_t>(models[0]->vocab_size());
  ASSIGN_OR_RETURN(const std::vector<Text> texts,
                   ReadTexts(options.tokens, models[0]->vocab_size()));
  const size_t num_foreign = options.base_logits.empty() ? 0 : 1;
  std::ifstream foreign;
  if (num_foreign > 0) {
    ASSIGN_OR_RETURN(foreign, OpenBaseLogits(options.base_logits, texts, vocab));
  }
  std::vector<FormatScore> scores(num_foreign + models.size());
  for (const Text& text : texts) {
    for (const auto& model : models) model->Read(text);
    for (FormatScore& score : scores) score.texts.emplace_back();
    const auto num_rows = static_cast<int32_t>(text.size()) - 1;  // the last predicts no token
    for (int32_t begin = 0; begin < num_rows; begin += kLogitBlock) {
      const int32_t count = std::min(kLogitBlock, num_rows - begin);
      std::vector<std::vector<float>> logits(num_foreign);
      for (std::vector<float>& of : logits) {
        of.resize(static_cast<size_t>(count) * vocab);
        foreign.read(reinterpret_cast<char*>(of.data()),
                     static_cast<std::streamsize>(of.size() * sizeof(float)));
      }
      for (const auto& model : models) logits.push_back(model->Logits(begin, count));
      ScoreBlock(text, begin, count, vocab, logits, &team, &scores);
    }
    std::cerr << "\rtext " << scores[0].texts.size() << " of " << texts.size() << std::flush;
  }
  std::cerr << "\n";
  for (size_t f = 0; f < models.size(); ++f) {
    std::cout << Report(*models[f], scores[num_foreign + f]).dump() << std::endl;
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace tessera::bench

int main(int argc, char** argv) {
  tessera::InitLogging("warn");
  const auto options = tessera::bench::ReadOptions({argv + 1, argv + argc});
  const absl::Status status = options.ok() ? tessera::bench::Measure(*options) : options.status();
  if (status.ok()) return 0;
  std::cerr << status.message() << "\n" << (options.ok() ? "" : tessera::bench::kUsage);
  return 2;
}
