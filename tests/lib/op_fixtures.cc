#include "tests/lib/op_fixtures.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <sstream>

#include "tests/lib/kv_rows.h"

namespace tessera::testing {
namespace {

// Hands out page ids in a random order.
class PageDealer {
 public:
  PageDealer(int num_pages, int slabs_per_page, std::mt19937_64* random) {
    for (int i = 1; i <= num_pages; ++i) free_.push_back(i * slabs_per_page);
    std::shuffle(free_.begin(), free_.end(), *random);
  }
  PageId Take() {
    const PageId page = free_.back();
    free_.pop_back();
    return page;
  }

 private:
  std::vector<PageId> free_;
};

struct BatchParts {
  std::vector<int64_t> write_places;
  std::vector<Range> run_ranges;
  std::vector<KvRun> runs;
  std::vector<PageId> pages;
};

int OwnBegin(const SegmentCase& segment) {
  int begin = 0;
  for (const StreamCase& stream : segment.streams) {
    begin = std::max(begin, stream.pos_begin + stream.count);
  }
  return begin;
}

int PagesOf(const AttentionCase& attention) {
  int pages = 0;
  for (const SegmentCase& segment : attention.segments) {
    pages += CeilDiv(segment.prefix + segment.num_tokens, attention.page_tokens);
    for (const StreamCase& stream : segment.streams) {
      pages += CeilDiv(stream.count, attention.page_tokens) + 1;
    }
  }
  return pages * static_cast<int>(attention.windows.size());
}

void AddStream(const StreamCase& stream, int page_tokens, PageDealer* dealer,
               std::mt19937_64* random, BatchParts* parts) {
  KvRun run;
  run.page_begin = static_cast<int32_t>(parts->pages.size());
  run.first = static_cast<int32_t>((*random)() % page_tokens);
  run.count = stream.count;
  run.num_pages = CeilDiv(run.first + run.count, page_tokens);
  run.pos_begin = stream.pos_begin;
  run.pos_delta = stream.pos_delta;
  run.temperature = stream.temperature;
  run.scale = stream.scale;
  for (int i = 0; i < run.num_pages; ++i) parts->pages.push_back(dealer->Take());
  parts->runs.push_back(run);
}

// Adds the segment's own keys, cut into num_runs runs at random places, and the write places of its
// rows.
void AddOwnKeys(const AttentionCase& attention, const SegmentCase& segment, int window,
                PageDealer* dealer, std::mt19937_64* random, BatchParts* parts) {
  const int page_tokens = attention.page_tokens;
  const int num_keys = segment.prefix + segment.num_tokens;
  const int page_begin = static_cast<int>(parts->pages.size());
  for (int i = 0; i < CeilDiv(num_keys, page_tokens); ++i) parts->pages.push_back(dealer->Take());

  int first_key = 0;
  if (window > 0 && attention.trim_windows) {
    first_key = std::max(0, segment.prefix - window + 1) / page_tokens * page_tokens;
  }
  std::vector<int> cuts = {first_key, num_keys};
  for (int i = 1; i < segment.num_runs; ++i) {
    cuts.push_back(first_key + static_cast<int>((*random)() % (num_keys - first_key + 1)));
  }
  std::sort(cuts.begin(), cuts.end());
  const int own_begin = OwnBegin(segment);
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    KvRun run;
    run.page_begin = page_begin + cuts[i] / page_tokens;
    run.first = cuts[i] % page_tokens;
    run.count = cuts[i + 1] - cuts[i];
    run.num_pages = CeilDiv(run.first + run.count, page_tokens);
    run.pos_begin = own_begin + cuts[i];
    parts->runs.push_back(run);
  }
  for (int i = segment.prefix; i < num_keys; ++i) {
    const int64_t page = parts->pages[page_begin + i / page_tokens];
    parts->write_places.push_back(page * page_tokens + i % page_tokens);
  }
}

void BuildLayout(const AttentionCase& attention, BuiltBatch* built) {
  for (int window : attention.windows) {
    GroupLayout group;
    group.num_layers = attention.layers_per_group;
    group.kv_heads = attention.kv_heads;
    group.head_dim = attention.head_dim;
    group.page_tokens = attention.page_tokens;
    group.dtype = attention.kv_dtype;
    group.window = window;
    built->layout.groups.push_back(group);
  }
  built->layout.slabs_per_page = 2;
  built->layout.slab_bytes = built->layout.groups[0].page_bytes() / 2;
  built->num_slabs = 2 * (PagesOf(attention) + 1);
  built->pool_words.assign(built->num_slabs * built->layout.slab_bytes / 8, 0);
}

void BuildRope(const AttentionCase& attention, BuiltBatch* built) {
  RopeSpec& rope = built->rope;
  rope.rotary_dim = attention.rotary_dim < 0 ? attention.head_dim : attention.rotary_dim;
  rope.attention_factor = attention.attention_factor;
  for (int i = 0; i < rope.rotary_dim / 2; ++i) {
    rope.inv_freq.push_back(std::pow(10000.0f, -2.0f * i / rope.rotary_dim));
  }
}

}  // namespace

AttentionArgs BuiltBatch::Args(int group, int layer_in_group, float* qkv_rows, float* out) {
  AttentionArgs args;
  args.batch = view();
  args.qkv = Tensor::F32(qkv_rows, num_tokens(), qkv_cols());
  args.out = Tensor::F32(out, num_tokens(), out_cols());
  args.layer = layer_in_group * layout.num_groups() + group;
  args.group = group;
  args.layer_in_group = layer_in_group;
  args.heads = attention.heads;
  args.scale = 1.0f / std::sqrt(static_cast<float>(attention.head_dim));
  args.softcap = attention.softcap;
  if (attention.qk_norm) {
    args.q_norm = {q_norm.data(), 1e-6f};
    args.k_norm = {k_norm.data(), 1e-6f};
  }
  args.rope = &rope;
  args.layout = &layout.groups[group];
  args.pool = pool();
  return args;
}

std::unique_ptr<BuiltBatch> BuildBatch(const AttentionCase& attention, uint64_t seed) {
  auto built = std::make_unique<BuiltBatch>();
  built->attention = attention;
  BuildLayout(attention, built.get());
  BuildRope(attention, built.get());
  std::mt19937_64 random(seed);
  PageDealer dealer(PagesOf(attention), built->layout.slabs_per_page, &random);

  std::vector<TokenId> tokens;
  std::vector<int32_t> positions;
  std::vector<Segment> segments;
  for (const SegmentCase& segment : attention.segments) {
    segments.push_back({static_cast<int32_t>(segments.size()), static_cast<int32_t>(tokens.size()),
                        segment.num_tokens, -1});
    for (int i = 0; i < segment.num_tokens; ++i) {
      tokens.push_back(static_cast<TokenId>(random() % 100));
      positions.push_back(OwnBegin(segment) + segment.prefix + i);
    }
  }
  BatchParts parts;
  for (int window : attention.windows) {
    for (const SegmentCase& segment : attention.segments) {
      const int32_t run_begin = static_cast<int32_t>(parts.runs.size());
      for (const StreamCase& stream : segment.streams) {
        AddStream(stream, attention.page_tokens, &dealer, &random, &parts);
      }
      AddOwnKeys(attention, segment, window, &dealer, &random, &parts);
      parts.run_ranges.push_back({run_begin, static_cast<int32_t>(parts.runs.size()) - run_begin});
    }
  }
  built->batch.num_groups = built->layout.num_groups();
  built->batch.tokens = built->arena.AddCopy(tokens);
  built->batch.positions = built->arena.AddCopy(positions);
  built->batch.write_places = built->arena.AddCopy(parts.write_places);
  built->batch.segments = built->arena.AddCopy(segments);
  built->batch.run_ranges = built->arena.AddCopy(parts.run_ranges);
  built->batch.runs = built->arena.AddCopy(parts.runs);
  built->batch.pages = built->arena.AddCopy(parts.pages);

  built->q_norm = RandomFloats(attention.head_dim, 0.2f, seed + 1);
  built->k_norm = RandomFloats(attention.head_dim, 0.2f, seed + 2);
  for (float& weight : built->q_norm) weight += 1.0f;
  for (float& weight : built->k_norm) weight += 1.0f;
  built->qkv =
      RandomFloats(static_cast<size_t>(built->num_tokens()) * built->qkv_cols(), 1.0f, seed + 3);
  FillPool(built.get(), seed + 4);
  return built;
}

void SharePages(BuiltBatch* built, int segment, int with_segment, int num_pages) {
  const BatchView view = built->view();
  const int page_tokens = built->attention.page_tokens;
  PageId* const pages = built->arena.data(built->batch.pages);
  const PageId* const from = pages + view.runs()[view.run_range(0, with_segment).begin].page_begin;
  const Range range = view.run_range(0, segment);
  for (int r = range.begin; r < range.begin + range.count; ++r) {
    const KvRun& run = view.runs()[r];
    const int number = (run.pos_begin - run.first) / page_tokens;  // index of the run's first page
    const int used = CeilDiv(run.first + run.count, page_tokens);
    for (int i = 0; i < used && number + i < num_pages; ++i) {
      pages[run.page_begin + i] = from[number + i];
    }
  }
}

std::unique_ptr<BuiltBatch> BuildSharingBatch(DType kv_dtype, uint64_t seed) {
  AttentionCase attention;
  attention.name = "sharing";
  attention.heads = 14;
  attention.head_dim = 64;
  attention.kv_dtype = kv_dtype;
  attention.segments = {{1100, 1}, {1050, 1}, {1025, 4}, {700, 1, 3}, {1300, 1}, {40, 1}};
  auto built = BuildBatch(attention, seed);
  const int pages_per_block = kAttentionBlock / attention.page_tokens;
  for (int s = 1; s <= 4; ++s) SharePages(built.get(), s, 0, (5 - s) * pages_per_block + s - 1);
  return built;
}

void FillPool(BuiltBatch* built, uint64_t seed) {
  const GroupLayout& layout = built->layout.groups[0];  // pages of all groups have the same layout
  const PoolView pool = built->pool();
  const int64_t heads_per_page = layout.page_bytes() / layout.head_stride();  // of K and of V
  const int64_t rows_per_page = heads_per_page * layout.page_tokens;
  const PageId slabs_per_page = built->layout.slabs_per_page;
  const int64_t num_pages = pool.num_slabs / slabs_per_page - 1;
  const std::vector<float> numbers =
      RandomFloats(num_pages * rows_per_page * layout.head_dim, 1.0f, seed);
  auto next = numbers.begin();
  for (PageId page = slabs_per_page; page < pool.num_slabs; page += slabs_per_page) {
    for (int64_t row = 0; row < rows_per_page; ++row, next += layout.head_dim) {
      const int64_t head = row / layout.page_tokens;
      StoreKvRow(layout, std::vector<float>(next, next + layout.head_dim),
                 pool.Page(page) + head * layout.head_stride(),
                 static_cast<int>(row % layout.page_tokens),
                 static_cast<int>(head / layout.kv_heads % 2));
    }
  }
}

StepShape BuiltBatch::shape() const {
  StepShape shape;
  shape.hidden = out_cols();
  shape.widest_input = out_cols();
  for (const GroupLayout& group : layout.groups) {
    shape.groups.push_back({attention.heads, group.kv_heads, group.head_dim, group.window});
  }
  shape.rope_dims = {rope.rotary_dim};
  return shape;
}

void BeginStep(Backend* backend, const BatchView& batch, const StepShape& shape) {
  backend->BeginStep(batch, shape, backend->Plan(batch, shape));
}

void PlaceOutputs(const BatchView& batch, StepResult* result, SampleArgs* args) {
  const auto num_rows = static_cast<int64_t>(batch.batch->sampler_rows.count);
  result->rows.resize(static_cast<size_t>(num_rows));
  result->top.resize(static_cast<size_t>(NumTop(batch, num_rows)));
  args->rows = result->rows.data();
  args->top = result->top.data();
}

std::vector<float> RunAttention(Backend* backend, BuiltBatch* built, int group, int layer_in_group,
                                std::vector<float>* taps) {
  std::vector<float> qkv = built->qkv;
  std::vector<float> out(static_cast<size_t>(built->num_tokens()) * built->out_cols(), -7.0f);
  AttentionArgs args = built->Args(group, layer_in_group, qkv.data(), out.data());
  if (taps != nullptr) {
    taps->assign(built->batch.num_tap_floats, 0.0f);
    args.taps = taps->data();
  }
  BeginStep(backend, args.batch, built->shape());
  const int64_t num_grown = backend->num_grown();
  backend->Attention(args);
  EXPECT_EQ(backend->num_grown(), num_grown) << "the plan of the step said less than it takes";
  return out;
}

std::string FormatName(const WeightFormat& format) {
  std::string name = DTypeName(format.dtype);
  if (format.group_size != 0) name += "_g" + std::to_string(format.group_size);
  if (format.asymmetric) name += "_asymmetric";
  if (format.rotation != 0) name += "_h" + std::to_string(format.rotation);
  if (format.quantized() && format.activations == DType::kBF16) name += "_bf16";
  return name;
}

std::string LinearCase::name() const {
  std::ostringstream out;
  out << "T" << rows << "_N" << n << "_K" << k << "_" << FormatName(format);
  std::string name = out.str();
  if (pre_norm) name += "_norm";
  if (bias) name += "_bias";
  if (epilogue == Epilogue::kResidualAdd) name += "_residual";
  if (epilogue == Epilogue::kGatedAct) {
    name += activation == Activation::kSilu ? "_silu" : "_gelu";
  }
  if (post_norm) name += "_post";
  return name;
}

std::unique_ptr<PackedWeight> BuiltLinear::Pack(Backend* backend) const {
  const int64_t k = linear.k;
  if (linear.epilogue != Epilogue::kGatedAct) {
    return backend->Pack({{weight.data(), DType::kF32, linear.n, k}}, linear.format, false);
  }
  const int64_t half = linear.n / 2;
  return backend->Pack(
      {{weight.data(), DType::kF32, half, k}, {weight.data() + half * k, DType::kF32, half, k}},
      linear.format, true);
}

BuiltLinear BuildLinear(const LinearCase& linear, uint64_t seed) {
  BuiltLinear built;
  built.linear = linear;
  built.x = RandomFloats(linear.rows * linear.k, 1.0f, seed);
  built.weight =
      RandomFloats(linear.n * linear.k, 1.0f / std::sqrt(static_cast<float>(linear.k)), seed + 1);
  if (linear.format == DType::kBF16) RoundToBF16(&built.weight);
  built.bias = RandomFloats(linear.n, 0.5f, seed + 2);
  built.pre_norm = RandomFloats(linear.k, 0.2f, seed + 3);
  built.post_norm = RandomFloats(linear.n, 0.2f, seed + 4);
  for (float& weight : built.pre_norm) weight += 1.0f;
  for (float& weight : built.post_norm) weight += 1.0f;
  built.out = RandomFloats(linear.rows * built.out_cols(), 1.0f, seed + 5);
  return built;
}

std::vector<float> RunLinear(Backend* backend, const BuiltLinear& built, int64_t begin,
                             int64_t count) {
  const LinearCase& linear = built.linear;
  if (count < 0) count = linear.rows - begin;
  std::vector<float> x(built.x.begin() + begin * linear.k,
                       built.x.begin() + (begin + count) * linear.k);
  std::vector<float> out(built.out.begin() + begin * built.out_cols(),
                         built.out.begin() + (begin + count) * built.out_cols());
  const std::unique_ptr<PackedWeight> weight = built.Pack(backend);
  LinearArgs args;
  args.x = Tensor::F32(x.data(), count, linear.k);
  args.weight = weight.get();
  if (linear.pre_norm) args.pre_norm = {built.pre_norm.data(), 1e-5f};
  if (linear.bias) args.bias = built.bias.data();
  args.epilogue = linear.epilogue;
  args.activation = linear.activation;
  if (linear.post_norm) args.post_norm = {built.post_norm.data(), 1e-5f};
  args.out = Tensor::F32(out.data(), count, built.out_cols());
  backend->Linear(args);
  return out;
}

std::vector<float> RandomFloats(size_t count, float stddev, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0f, stddev);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

void RoundToBF16(std::vector<float>* values) {
  for (float& value : *values) value = BF16ToFloat(FloatToBF16(value));
}

void ExpectRowsAsAlone(Backend* backend, Backend* alone, const LinearCase& linear, uint64_t seed) {
  const BuiltLinear built = BuildLinear(linear, seed);
  const ptrdiff_t cols = built.out_cols();
  std::vector<float> rows;
  for (int64_t row = 0; row < linear.rows; ++row) {
    const std::vector<float> out = RunLinear(alone, built, row, 1);
    rows.insert(rows.end(), out.begin(), out.end());
  }
  ExpectSameBits(RunLinear(backend, built), rows, linear.name());
  for (int64_t count = 1; count <= 30; ++count) {
    const std::vector<float> expected(rows.begin() + 17 * cols, rows.begin() + (17 + count) * cols);
    ExpectSameBits(RunLinear(backend, built, 17, count), expected,
                   linear.name() + " rows " + std::to_string(count));
  }
}

std::vector<std::string> WithTwin(std::vector<std::string> isas) {
  if (!isas.empty()) isas.emplace_back("amxtwin");
  return isas;
}

void ExpectClose(const std::vector<float>& actual, const std::vector<float>& expected, double abs,
                 double rel, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  double worst = 0.0;
  size_t worst_at = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    if (actual[i] == expected[i]) continue;  // also handles equal infinities
    const double error = std::abs(static_cast<double>(actual[i]) - expected[i]) /
                         (abs + rel * std::abs(static_cast<double>(expected[i])));
    if (error <= worst) continue;  // false if the error is NaN
    worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
    worst_at = i;
  }
  EXPECT_LE(worst, 1.0) << what << ": element " << worst_at << " is " << actual[worst_at]
                        << ", expected " << expected[worst_at] << " (error in tolerances)";
}

void ExpectSameBits(const std::vector<float>& actual, const std::vector<float>& expected,
                    const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(actual[i]), std::bit_cast<uint32_t>(expected[i]))
        << what << ": element " << i << " is " << actual[i] << ", expected " << expected[i];
  }
}

}  // namespace tessera::testing
