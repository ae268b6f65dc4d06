#include "kernels/model/model.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/log.h"

namespace tessera {
namespace {

constexpr int64_t kArenaAlign = 64;  // bytes

int64_t QueryDim(const ModelSpec& spec) { return int64_t{spec.heads} * spec.head_dim; }
int64_t QkvDim(const ModelSpec& spec) {
  return (int64_t{spec.heads} + 2 * spec.kv_heads) * spec.head_dim;
}

struct ArenaPart {
  int64_t rows;
  int64_t cols;

  int64_t bytes() const { return RoundUp<int64_t>(rows * cols * sizeof(float), kArenaAlign); }
};

// The number of log-probabilities of a row for which the output buffer is allocated at start. A
// step that asks for more gets a larger buffer when the step starts.
constexpr int64_t kMaxPlannedLogprobs = 20;

// The offsets of a step's outputs in the output buffer. The taps, which the layers write, are
// first: their address does not depend on the step.
struct OutputLayout {
  int64_t rows_offset = 0;
  int64_t top_offset = 0;
  int64_t num_bytes = 0;

  OutputLayout(int64_t num_rows, int64_t num_top, int64_t num_tap_floats) {
    rows_offset = RoundUp<int64_t>(num_tap_floats * int64_t{sizeof(float)}, kArenaAlign);
    top_offset =
        rows_offset + RoundUp<int64_t>(num_rows * int64_t{sizeof(SampledRow)}, kArenaAlign);
    num_bytes = top_offset + num_top * int64_t{sizeof(TokenLogprob)};
  }
};

// Returns the shapes of the buffers in the arena, in this order: residual, qkv, attended, gated,
// logits, token rows.
std::vector<ArenaPart> ArenaParts(const ModelSpec& spec, const ModelLimits& limits) {
  const int64_t rows = limits.max_tokens;
  return {{rows, spec.hidden},       {rows, QkvDim(spec)},           {rows, QueryDim(spec)},
          {rows, spec.intermediate}, {kLogitBlock, spec.vocab_size}, {rows, 1}};
}

}  // namespace

int64_t Model::ArenaBytes(const ModelSpec& spec, const ModelLimits& limits) {
  int64_t bytes = 0;
  for (const ArenaPart& part : ArenaParts(spec, limits)) bytes += part.bytes();
  return bytes;
}

int64_t Model::OutputBytes(const ModelSpec& spec, const ModelLimits& limits) {
  return OutputLayout(limits.max_tokens, int64_t{limits.max_tokens} * kMaxPlannedLogprobs,
                      limits.max_tokens * spec.hidden)
      .num_bytes;
}

StepShape Model::ShapeOf(const ModelSpec& spec, DType weight_dtype) {
  StepShape shape;
  shape.hidden = spec.hidden;
  shape.widest_input = spec.hidden;
  // With fp32 weights, a Linear copies its input rows to working memory only if it norms them, and
  // normed rows have `hidden` columns. With other weights every Linear rounds or quantises its
  // input rows into working memory.
  if (weight_dtype != DType::kF32) {
    shape.widest_input = std::max({spec.hidden, QueryDim(spec), spec.intermediate});
  }
  shape.post_norm_cols = spec.post_norms ? spec.hidden : 0;
  for (const KvGroupSpec& group : spec.kv_groups) {
    shape.groups.push_back({spec.heads, spec.kv_heads, spec.head_dim, group.window});
  }
  for (const RopeSpec& rope : spec.ropes) shape.rope_dims.push_back(rope.rotary_dim);
  return shape;
}

absl::StatusOr<std::unique_ptr<Model>> Model::Create(Backend* backend, ModelSpec spec,
                                                     ModelWeights weights,
                                                     const ModelLimits& limits) {
  CHECK_GE(limits.max_tokens, 1);
  CHECK_GE(limits.max_num_seqs, 1);
  std::unique_ptr<Model> model(new Model(backend, std::move(spec), std::move(weights), limits));
  if (model->AllocateArena()) return model;
  return absl::ResourceExhaustedError(
      absl::StrCat("not enough memory for the activations of ", limits.max_tokens, " tokens, ",
                   ArenaBytes(model->spec(), limits), " bytes; lower --max-num-batched-tokens"));
}

Model::Model(Backend* backend, ModelSpec spec, ModelWeights weights, const ModelLimits& limits)
    : backend_(backend),
      spec_(std::move(spec)),
      lora_shape_(LoraShapeOf(spec_)),
      weights_(std::move(weights)),
      shape_(ShapeOf(spec_, weights_.dtype)),
      limits_(limits) {
  MakeRopeTable();
}

bool Model::AllocateArena() {
  arena_ = backend_->Allocate(ArenaBytes(spec_, limits_));
  slot_tokens_ = backend_->Allocate(limits_.max_num_seqs * sizeof(TokenId));
  outputs_ = backend_->Allocate(static_cast<size_t>(OutputBytes(spec_, limits_)));
  if (arena_ == nullptr || slot_tokens_ == nullptr || outputs_ == nullptr) return false;
  char* next = static_cast<char*>(arena_->data());
  const std::vector<ArenaPart> parts = ArenaParts(spec_, limits_);
  float* token_rows = nullptr;
  float** const pointers[] = {&residual_, &qkv_, &attended_, &gated_, &logits_, &token_rows};
  for (size_t i = 0; i < parts.size(); ++i) {
    *pointers[i] = reinterpret_cast<float*>(next);
    next += parts[i].bytes();
  }
  static_assert(sizeof(*token_rows_) == sizeof(float));
  token_rows_ = reinterpret_cast<int32_t*>(token_rows);
  return true;
}

void Model::MakeRopeTable() {
  apply_.ropes.resize(spec_.kv_groups.size());
  for (size_t group = 0; group < spec_.kv_groups.size(); ++group) {
    apply_.ropes[group].assign(spec_.kv_groups[group].num_layers, nullptr);
  }
  for (const LayerSpec& layer : spec_.layers) {
    std::vector<const RopeSpec*>& ropes = apply_.ropes[layer.group];
    // Padding layers come last in their group and get the rope of the group's last layer.
    // kRopeShift rotates the rows of padding layers, too, but no layer reads these rows.
    std::fill(ropes.begin() + layer.layer_in_group, ropes.end(), &spec_.ropes[layer.rope]);
  }
}

Tensor Model::Activations(float* data, int64_t cols) const {
  return Tensor::F32(data, num_tokens_, cols);
}

void Model::Begin(const BatchView& batch, const KvView& kv, StepResult* result) {
  CHECK_LE(batch.num_tokens(), limits_.max_tokens);
  CHECK_EQ(kv.layout->num_groups(), static_cast<int>(spec_.kv_groups.size()));
  batch_ = batch;
  num_tokens_ = batch.num_tokens();
  kv_ = kv;
  result_ = result;
  next_layer_ = 0;
  result->step_id = batch.batch->step_id;
  result->model = batch.batch->model;
  result->rows.clear();
  result->top.clear();
  result->taps.clear();

  backend_->BeginStep(batch_, shape_, backend_->Plan(batch_, shape_));
  apply_.batch = batch_;
  apply_.layout = kv_.layout;
  apply_.pool = kv_.pool;
  apply_.slot_tokens = static_cast<TokenId*>(slot_tokens_->data());
  backend_->Apply(apply_);
  if (num_tokens_ == 0) return;
  PlaceOutputs();
  EmbedArgs embed;
  embed.batch = batch_;
  embed.table = weights_.embed.get();
  embed.scale = spec_.embedding_scale;
  embed.slot_tokens = static_cast<const TokenId*>(slot_tokens_->data());
  embed.out = residual();
  backend_->Embed(embed);
}

void Model::RunLayers(int first, int last) {
  CHECK_EQ(first, next_layer_);
  CHECK_LE(first, last);
  CHECK_LE(last, spec_.num_layers);
  next_layer_ = last;
  if (num_tokens_ == 0) return;
  while (first < last) {
    const int stop = NextTapped(first, last);
    const GraphMemory memory = {residual_, kv_.pool.base, taps_};
    backend_->RunLayers(GraphKeyOf(batch_, memory, first, stop), [this, first, stop] {
      for (int layer = first; layer < stop; ++layer) RunLayer(layer);
    });
    TapHidden(stop - 1);
    first = stop;
  }
}

LoraShape LoraShapeOf(const ModelSpec& spec) {
  const int32_t hidden = static_cast<int32_t>(spec.hidden);
  const int32_t query = spec.heads * spec.head_dim;
  const int32_t key = spec.kv_heads * spec.head_dim;
  const int32_t wide = static_cast<int32_t>(spec.intermediate);
  LoraShape shape;
  const int32_t rows[] = {query, key, key, hidden, wide, wide, hidden};
  const int32_t cols[] = {hidden, hidden, hidden, query, hidden, hidden, wide};
  std::copy_n(rows, kNumLoraTargets, shape.rows);
  std::copy_n(cols, kNumLoraTargets, shape.cols);
  return shape;
}

LoraArgs Model::Lora(int layer, std::initializer_list<LoraTarget> parts) const {
  LoraArgs lora;
  if (batch_.batch->adapters.count == 0) return lora;
  lora.batch = batch_;
  lora.pool = kv_.pool;
  lora.page_bytes = kv_.layout->page_bytes();
  lora.layer = layer;
  for (const LoraTarget target : parts) {
    lora.targets[lora.num_parts] = target;
    lora.part_rows[lora.num_parts++] = lora_shape_.rows[static_cast<int>(target)];
  }
  return lora;
}

void Model::RunLayer(int layer) {
  const LayerWeights& weights = weights_.layers[layer];
  LinearArgs qkv;
  qkv.x = residual();
  qkv.weight = weights.qkv.get();
  qkv.pre_norm = {weights.attention_norm, spec_.norm_eps};
  qkv.bias = weights.qkv_bias;
  qkv.lora = Lora(layer, {LoraTarget::kQuery, LoraTarget::kKey, LoraTarget::kValue});
  qkv.out = Activations(qkv_, QkvDim(spec_));
  backend_->Linear(qkv);

  Attend(layer);

  LinearArgs out;
  out.x = Activations(attended_, QueryDim(spec_));
  out.weight = weights.out.get();
  out.bias = weights.out_bias;
  out.epilogue = Epilogue::kResidualAdd;
  out.all_reduce = true;
  out.post_norm = {weights.post_attention_norm, spec_.norm_eps};
  out.lora = Lora(layer, {LoraTarget::kOut});
  out.out = residual();
  backend_->Linear(out);

  RunMlp(layer);
}

void Model::Attend(int layer) {
  const LayerWeights& weights = weights_.layers[layer];
  const LayerSpec& spec = spec_.layers[layer];
  AttentionArgs attention;
  attention.batch = batch_;
  attention.qkv = Activations(qkv_, QkvDim(spec_));
  attention.out = Activations(attended_, QueryDim(spec_));
  attention.layer = layer;
  attention.group = spec.group;
  attention.layer_in_group = spec.layer_in_group;
  attention.heads = spec_.heads;
  attention.scale = spec_.attention_scale;
  attention.softcap = spec_.attention_softcap;
  attention.q_norm = {weights.q_norm, spec_.norm_eps};
  attention.k_norm = {weights.k_norm, spec_.norm_eps};
  attention.rope = &spec_.ropes[spec.rope];
  attention.layout = &kv_.layout->groups[spec.group];
  attention.pool = kv_.pool;
  attention.taps = taps_;
  backend_->Attention(attention);
}

void Model::RunMlp(int layer) {
  const LayerWeights& weights = weights_.layers[layer];
  LinearArgs gate_up;
  gate_up.x = residual();
  gate_up.weight = weights.gate_up.get();
  gate_up.pre_norm = {weights.mlp_norm, spec_.norm_eps};
  gate_up.bias = weights.gate_up_bias;
  gate_up.epilogue = Epilogue::kGatedAct;
  gate_up.activation = spec_.activation;
  gate_up.lora = Lora(layer, {LoraTarget::kGate, LoraTarget::kUp});
  gate_up.out = Activations(gated_, spec_.intermediate);
  backend_->Linear(gate_up);

  LinearArgs down;
  down.x = gate_up.out;
  down.weight = weights.down.get();
  down.bias = weights.down_bias;
  down.epilogue = Epilogue::kResidualAdd;
  down.all_reduce = true;
  down.post_norm = {weights.post_mlp_norm, spec_.norm_eps};
  down.lora = Lora(layer, {LoraTarget::kDown});
  down.out = residual();
  backend_->Linear(down);
}

void Model::PlaceOutputs() {
  const StepBatch& batch = *batch_.batch;
  const auto num_rows = static_cast<int64_t>(batch.sampler_rows.count);
  CHECK_LE(num_rows, limits_.max_tokens);
  const OutputLayout layout(num_rows, NumTop(batch_, num_rows), batch.num_tap_floats);
  if (static_cast<int64_t>(outputs_->size()) < layout.num_bytes) {
    outputs_.reset();
    outputs_ = backend_->Allocate(static_cast<size_t>(layout.num_bytes));
    CHECK(outputs_ != nullptr) << "no memory for " << layout.num_bytes << " bytes of outputs";
  }
  char* const base = static_cast<char*>(outputs_->data());
  rows_ = reinterpret_cast<SampledRow*>(base + layout.rows_offset);
  top_ = reinterpret_cast<TokenLogprob*>(base + layout.top_offset);
  taps_ = batch.num_tap_floats == 0 ? nullptr : reinterpret_cast<float*>(base);
  // The taps start as zeros, because Attention leaves the end of a tap's row unwritten if the layer
  // sees fewer keys than the row has room for.
  if (taps_ != nullptr) {
    result_->taps.assign(batch.num_tap_floats, 0.0f);
    backend_->Upload(result_->taps.data(), taps_, result_->taps.size() * sizeof(float));
  }
  const SamplerRow* const rows = batch_.data(batch.sampler_rows);
  host_rows_.clear();
  for (int64_t r = 0; r < num_rows; ++r) host_rows_.push_back(rows[r].token_row);
  backend_->Upload(host_rows_.data(), token_rows_, host_rows_.size() * sizeof(int32_t));
}

void Model::Finish() {
  CHECK_EQ(next_layer_, spec_.num_layers);
  if (num_tokens_ == 0) return;
  TapHidden(spec_.num_layers);
  const int32_t num_rows = static_cast<int32_t>(host_rows_.size());
  for (int32_t begin = 0; begin < num_rows; begin += kLogitBlock) {
    SampleArgs sample;
    sample.batch = batch_;
    sample.row_begin = begin;
    sample.num_rows = std::min<int32_t>(kLogitBlock, num_rows - begin);
    sample.logits = RunLogits(token_rows_ + begin, sample.num_rows);
    sample.slot_tokens = static_cast<TokenId*>(slot_tokens_->data());
    sample.rows = rows_;
    sample.top = top_;
    backend_->Sample(sample);
  }
  result_->rows.resize(host_rows_.size());
  result_->top.resize(static_cast<size_t>(NumTop(batch_, num_rows)));
  backend_->Download(rows_, result_->rows.data(), result_->rows.size() * sizeof(SampledRow));
  backend_->Download(top_, result_->top.data(), result_->top.size() * sizeof(TokenLogprob));
  if (taps_ != nullptr) {
    backend_->Download(taps_, result_->taps.data(), result_->taps.size() * sizeof(float));
  }
}

Tensor Model::RunLogits(const int32_t* token_rows, int64_t count) {
  LogitsArgs logits;
  logits.hidden = residual();
  logits.token_rows = token_rows;
  logits.num_rows = count;
  logits.final_norm = {weights_.final_norm, spec_.norm_eps};
  logits.weight = weights_.head();
  logits.softcap = spec_.logit_softcap;
  logits.out = Tensor::F32(logits_, count, spec_.vocab_size);
  backend_->Logits(logits);
  return logits.out;
}

std::vector<float> Model::ComputeLogits(const std::vector<int32_t>& token_rows) {
  CHECK_LE(static_cast<int64_t>(token_rows.size()), kLogitBlock);
  CHECK_LE(static_cast<int64_t>(token_rows.size()), limits_.max_tokens);
  backend_->Upload(token_rows.data(), token_rows_, token_rows.size() * sizeof(int32_t));
  const Tensor out = RunLogits(token_rows_, static_cast<int64_t>(token_rows.size()));
  std::vector<float> logits(static_cast<size_t>(out.rows * out.cols));
  backend_->Download(out.data, logits.data(), logits.size() * sizeof(float));
  return logits;
}

int Model::NextTapped(int first, int last) const {
  const Tap* const taps = batch_.data(batch_.batch->taps);
  int next = last;
  for (uint32_t i = 0; i < batch_.batch->taps.count; ++i) {
    if (taps[i].kind != TapKind::kHidden || taps[i].layer_end <= first) continue;
    next = std::min(next, std::max(taps[i].layer_begin, first) + 1);
  }
  return next;
}

void Model::TapHidden(int layer) {
  if (taps_ == nullptr) return;
  HiddenTapArgs args;
  args.batch = batch_;
  args.hidden = residual();
  args.layer = layer;
  if (layer == spec_.num_layers) args.norm = {weights_.final_norm, spec_.norm_eps};
  args.taps = taps_;
  backend_->TapHidden(args);
}

}  // namespace tessera
