#include "tests/lib/tiny_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "kernels/base/log.h"
#include "kernels/model/checkpoint/safetensors.h"
#include "kernels/model/checkpoint/weights.h"

namespace tessera::testing {
namespace {

// Slabs reserved for the null page, enough for the model with the largest pages.
constexpr int64_t kNullSlabs = 16;

}  // namespace

std::vector<std::string> CpuBackends() { return CpuIsas(); }

std::vector<std::string> AllBackends() {
  std::vector<std::string> names = CpuIsas();
  names.insert(names.begin(), "ref");
  return names;
}

TestBackend::TestBackend(const std::string& name, int num_threads)
    : team(std::make_unique<ThreadTeam>(num_threads)),
      backend(name == "ref" ? NewRefBackend() : NewCpuBackend(name, team.get())) {
  CHECK(backend != nullptr) << name;
}

std::vector<TokenId> Golden::all_ids() const {
  std::vector<TokenId> ids = prompt_ids;
  ids.insert(ids.end(), greedy_ids.begin(), greedy_ids.end());
  return ids;
}

Golden LoadGolden(const std::string& json_path, const std::string& logits_path) {
  std::ifstream json_file(json_path);
  const nlohmann::json json = nlohmann::json::parse(json_file, nullptr, /*allow_exceptions=*/false);
  CHECK(json.is_object()) << json_path;
  Golden golden;
  golden.prompt_ids = json["prompt_ids"].get<std::vector<TokenId>>();
  golden.greedy_ids = json["greedy_ids"].get<std::vector<TokenId>>();
  golden.inv_freq = json.value("inv_freq", std::vector<float>());
  golden.logits.resize(std::filesystem::file_size(logits_path) / sizeof(float));
  std::ifstream logits_file(logits_path, std::ios::binary);
  logits_file.read(reinterpret_cast<char*>(golden.logits.data()),
                   static_cast<std::streamsize>(golden.logits.size() * sizeof(float)));
  CHECK(logits_file.good()) << logits_path;
  return golden;
}

std::string GoldenModelDir(const std::string& name) { return "tests/golden/models/" + name; }

Golden LoadGoldenModel(const std::string& name) {
  const std::string dir = GoldenModelDir(name);
  return LoadGolden(dir + "/golden.json", dir + "/logits.f32");
}

std::vector<std::string> GoldenModels() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(GoldenModelDir(""))) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

TinyPool::TinyPool(Backend* backend, int64_t slab_bytes, int64_t num_slabs)
    : memory_(backend->Allocate(slab_bytes * num_slabs)) {
  CHECK(memory_ != nullptr);
  const std::string nans(static_cast<size_t>(slab_bytes), '\xff');  // in fp32 and bf16
  for (int64_t slab = 0; slab < num_slabs; ++slab) {
    backend->Upload(nans.data(), static_cast<char*>(memory_->data()) + slab * slab_bytes,
                    nans.size());
  }
  view_ = {static_cast<char*>(memory_->data()), slab_bytes, num_slabs};
  low_ = kNullSlabs;
  high_ = num_slabs;
}

PageId TinyPool::Allocate(int32_t slabs_per_page) {
  CHECK_LE(slabs_per_page, kNullSlabs);
  from_low_ = !from_low_;
  int64_t page;
  if (from_low_) {
    page = RoundUp<int64_t>(low_, slabs_per_page);
    low_ = page + slabs_per_page;
  } else {
    high_ = (high_ - slabs_per_page) / slabs_per_page * slabs_per_page;
    page = high_;
  }
  CHECK_LE(low_, high_) << "the tiny pool is full";
  return static_cast<PageId>(page);
}

TinyModel::TinyModel(const std::string& dir, Backend* backend, const TinyOptions& options)
    : backend_(backend), max_num_seqs_(options.max_num_seqs) {
  const absl::StatusOr<ModelSpec> spec = LoadModelSpec(dir);
  CHECK(spec.ok()) << spec.status();
  const auto checkpoint = Checkpoint::OpenDir(dir);
  CHECK(checkpoint.ok()) << checkpoint.status();
  WeightOptions weight_options;
  weight_options.request.dtype = options.dtype;
  weight_options.request.activations = options.activations;
  weight_options.pack_cache = options.pack_cache;
  absl::StatusOr<ModelWeights> weights = LoadWeights(*spec, **checkpoint, backend_, weight_options);
  CHECK(weights.ok()) << weights.status();
  auto model = Model::Create(backend_, *spec, *std::move(weights),
                             {options.max_tokens, options.max_num_seqs});
  CHECK(model.ok()) << model.status();
  model_ = *std::move(model);
  spec_ = *spec;

  layout_ = MakePageLayout(*spec, options.kv_dtype, options.page_tokens);
  const int64_t page_bytes = layout_.groups[0].page_bytes();
  pool_ = options.pool;
  if (pool_ == nullptr) {
    const int64_t slab_bytes = CeilDiv<int64_t>(page_bytes, 128) * 64;  // half of a page
    own_pool_ = std::make_unique<TinyPool>(backend_, slab_bytes,
                                           options.pool_bytes / slab_bytes + kNullSlabs);
    pool_ = own_pool_.get();
  }
  layout_.slab_bytes = pool_->view().slab_bytes;
  while (layout_.page_bytes() < page_bytes) layout_.slabs_per_page *= 2;
}

int TinyModel::AddSequence(std::vector<TokenId> tokens) {
  CHECK_LT(static_cast<int>(sequences_.size()), max_num_seqs_);
  sequences_.push_back({std::move(tokens), 0, {}});
  sequences_.back().pages.resize(layout_.groups.size());
  return static_cast<int>(sequences_.size()) - 1;
}

int TinyModel::AddAdapter(const AdapterImage& image) {
  std::vector<PageId> pages;
  for (int32_t i = 0; i < image.layout.num_pages; ++i) {
    pages.push_back(pool_->Allocate(layout_.slabs_per_page));
    backend_->Upload(image.pages.data() + i * image.layout.page_bytes,
                     pool_->view().Page(pages.back()),
                     static_cast<size_t>(image.layout.page_bytes));
  }
  adapters_.emplace_back(image.layout, std::move(pages));
  return static_cast<int>(adapters_.size()) - 1;
}

struct TinyModel::Lists {
  std::vector<TokenId> tokens;
  std::vector<int32_t> positions;
  std::vector<std::vector<int64_t>> write_places;  // [group]
  std::vector<Segment> segments;
  std::vector<std::vector<Range>> run_ranges;  // [group]
  std::vector<KvRun> runs;
  std::vector<PageId> pages;
  std::vector<SamplerRow> sampler_rows;
};

void TinyModel::AddRuns(const TinySegment& segment, int group, Lists* lists) const {
  const TinySequence& sequence = sequences_[segment.sequence];
  const int32_t page_tokens = layout_.page_tokens();
  const int32_t window = layout_.groups[group].window;
  const int32_t end = sequence.num_computed + segment.num_tokens;
  int32_t begin = 0;
  if (segment.trim && window > 0) {
    begin = std::max(0, sequence.num_computed - window + 1) / page_tokens * page_tokens;
  }
  const int32_t num_runs = std::min(segment.num_runs, end - begin);
  lists->run_ranges[group].push_back({static_cast<int32_t>(lists->runs.size()), num_runs});
  for (int32_t i = 0; i < num_runs; ++i) {
    const int32_t run_begin = begin + (end - begin) * i / num_runs;
    const int32_t run_end = begin + (end - begin) * (i + 1) / num_runs;
    KvRun run;
    run.page_begin = static_cast<int32_t>(lists->pages.size());
    run.num_pages = CeilDiv(run_end, page_tokens) - run_begin / page_tokens;
    run.first = run_begin % page_tokens;
    run.count = run_end - run_begin;
    run.pos_begin = run_begin;
    const auto page = sequence.pages[group].begin() + run_begin / page_tokens;
    lists->pages.insert(lists->pages.end(), page, page + run.num_pages);
    lists->runs.push_back(run);
  }
}

void TinyModel::AddSegment(const TinySegment& segment, Lists* lists) {
  TinySequence& sequence = sequences_[segment.sequence];
  const int32_t begin = sequence.num_computed;
  const int32_t end = begin + segment.num_tokens;
  const int32_t page_tokens = layout_.page_tokens();
  CHECK_LE(end, static_cast<int32_t>(sequence.tokens.size()));
  Segment out;
  out.slot = segment.sequence;
  out.token_begin = static_cast<int32_t>(lists->tokens.size());
  out.num_tokens = segment.num_tokens;
  out.adapter = segment.adapter;
  lists->segments.push_back(out);
  for (int32_t i = begin; i < end; ++i) {
    lists->tokens.push_back(sequence.tokens[i]);
    lists->positions.push_back(i);
  }
  if (segment.from_slot) lists->tokens.back() = kLastSampledToken;
  for (size_t group = 0; group < layout_.groups.size(); ++group) {
    std::vector<PageId>& pages = sequence.pages[group];
    while (static_cast<int32_t>(pages.size()) * page_tokens < end) {
      pages.push_back(pool_->Allocate(layout_.slabs_per_page));
    }
    for (int32_t i = begin; i < end; ++i) {
      lists->write_places[group].push_back(int64_t{pages[i / page_tokens]} * page_tokens +
                                           i % page_tokens);
    }
    AddRuns(segment, static_cast<int>(group), lists);
  }
  if (segment.sample) {
    SamplerRow row = segment.row;
    row.token_row = static_cast<int32_t>(lists->tokens.size()) - 1;
    row.slot = segment.sequence;
    row.position = end;
    lists->sampler_rows.push_back(row);
  }
  sequence.num_computed = end;
}

std::unique_ptr<TinyStep> TinyModel::Build(const std::vector<TinySegment>& segments,
                                           const std::vector<Tap>& taps,
                                           const std::vector<PageOp>& page_ops,
                                           const std::vector<SlotUpdate>& slot_updates) {
  Lists lists;
  lists.write_places.resize(layout_.groups.size());
  lists.run_ranges.resize(layout_.groups.size());
  for (const TinySegment& segment : segments) AddSegment(segment, &lists);
  auto step = std::make_unique<TinyStep>();
  StepBatch& batch = step->batch;
  BatchArena& arena = step->arena;
  std::vector<int64_t> write_places;
  std::vector<Range> run_ranges;
  for (size_t g = 0; g < layout_.groups.size(); ++g) {
    write_places.insert(write_places.end(), lists.write_places[g].begin(),
                        lists.write_places[g].end());
    run_ranges.insert(run_ranges.end(), lists.run_ranges[g].begin(), lists.run_ranges[g].end());
  }
  std::vector<BatchAdapter> adapters;
  std::vector<LoraMatrices> matrices;
  for (const auto& [layout, pages] : adapters_) {
    adapters.push_back({static_cast<int32_t>(lists.pages.size()),
                        static_cast<int32_t>(matrices.size()), layout.dtype});
    lists.pages.insert(lists.pages.end(), pages.begin(), pages.end());
    matrices.insert(matrices.end(), layout.matrices.begin(), layout.matrices.end());
  }
  batch.adapters = arena.AddCopy(adapters);
  batch.lora_matrices = arena.AddCopy(matrices);
  batch.num_groups = layout_.num_groups();
  batch.step_id = next_step_id_++;
  batch.tokens = arena.AddCopy(lists.tokens);
  batch.positions = arena.AddCopy(lists.positions);
  batch.write_places = arena.AddCopy(write_places);
  batch.segments = arena.AddCopy(lists.segments);
  batch.run_ranges = arena.AddCopy(run_ranges);
  batch.runs = arena.AddCopy(lists.runs);
  batch.pages = arena.AddCopy(lists.pages);
  batch.sampler_rows = arena.AddCopy(lists.sampler_rows);
  batch.taps = arena.AddCopy(taps);
  batch.page_ops = arena.AddCopy(page_ops);
  batch.slot_updates = arena.AddCopy(slot_updates);
  for (const Tap& tap : taps) {
    batch.num_tap_floats = std::max(batch.num_tap_floats, tap.out_begin + tap.out_count);
  }
  num_step_tokens_ = static_cast<int32_t>(lists.tokens.size());
  return step;
}

StepResult TinyModel::Run(const TinyStep& step, const std::vector<int>& stops) {
  StepResult result;
  const int64_t num_grown = backend_->num_grown();
  model_->Begin(step.view(), KvView{pool_->view(), &layout_}, &result);
  int first = 0;
  for (const int stop : stops) {
    model_->RunLayers(first, stop);
    first = stop;
  }
  model_->RunLayers(first, spec().num_layers);
  model_->Finish();
  CHECK_EQ(backend_->num_grown(), num_grown) << "a step took more memory than its plan says";
  return result;
}

std::vector<float> TinyModel::LastLogits() {
  std::vector<float> logits;
  for (int32_t begin = 0; begin < num_step_tokens_; begin += kLogitBlock) {
    std::vector<int32_t> rows;
    const int32_t end = std::min<int32_t>(num_step_tokens_, begin + kLogitBlock);
    for (int32_t row = begin; row < end; ++row) rows.push_back(row);
    const std::vector<float> block = model_->ComputeLogits(rows);
    logits.insert(logits.end(), block.begin(), block.end());
  }
  return logits;
}

std::vector<float> TinyModel::AllLogits(const std::vector<TokenId>& tokens, int chunk,
                                        int adapter) {
  const int sequence = AddSequence(tokens);
  std::vector<float> logits;
  const int total = static_cast<int>(tokens.size());
  while (num_computed(sequence) < total) {
    TinySegment segment = {sequence, std::min(chunk, total - num_computed(sequence))};
    segment.adapter = adapter;
    Step({segment});
    const std::vector<float> rows = LastLogits();
    logits.insert(logits.end(), rows.begin(), rows.end());
  }
  return logits;
}

std::vector<TokenId> TinyModel::Greedy(const std::vector<TokenId>& prompt, int num_tokens) {
  const int sequence = AddSequence(prompt);
  std::vector<TokenId> ids;
  int next = static_cast<int>(prompt.size());
  for (int i = 0; i < num_tokens; ++i) {
    ids.push_back(Step({{sequence, next, /*sample=*/true}}).rows[0].token);
    Append(sequence, ids.back());
    next = 1;
  }
  return ids;
}

float MaxDifference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return std::numeric_limits<float>::infinity();
  float largest = 0.0f;
  for (size_t i = 0; i < a.size(); ++i) {
    const float difference = std::fabs(a[i] - b[i]);
    if (!(difference <= largest)) largest = difference;
    if (std::isnan(largest)) return std::numeric_limits<float>::infinity();
  }
  return largest;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return false;
  return a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace tessera::testing
