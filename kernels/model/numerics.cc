#include "kernels/model/numerics.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kernels/base/status.h"
#include "kernels/model/checkpoint/content_hash.h"
#include "kernels/step/batch.h"
#include "kernels/step/batch_arena.h"
#include "kernels/step/step_result.h"

namespace tessera {
namespace {

constexpr int32_t kProbeTokens = 16;
constexpr int32_t kProbeLayers = 2;
constexpr int64_t kSlabAlign = 64;  // bytes

std::string FormatText(const WeightFormat& format) {
  std::string text = DTypeName(format.dtype);
  if (format.group_size > 0) absl::StrAppend(&text, "/", format.group_size);
  if (format.asymmetric) text += "a";
  if (format.rotation > 0) absl::StrAppend(&text, "h", format.rotation);
  if (format.quantized() && format.activations != DType::kI8) {
    absl::StrAppend(&text, ":", DTypeName(format.activations));
  }
  return text;
}

std::string LayerFormats(const LayerWeights& layer) {
  std::string text;
  for (const auto* weight : {&layer.qkv, &layer.out, &layer.gate_up, &layer.down}) {
    absl::StrAppend(&text, " ", FormatText((*weight)->format()));
  }
  return text;
}

// Varied ids that any vocabulary has.
TokenId ProbeToken(int32_t position, int64_t vocab_size) {
  return static_cast<TokenId>((int64_t{position} * 7919 + 17) % vocab_size);
}

// Computes the KV of the fixed tokens in pages of its own.
class Probe final {
 public:
  Probe(Backend* backend, Model* model, const PageLayout& layout)
      : backend_(backend),
        model_(model),
        layout_(layout),
        pages_per_group_(CeilDiv(kProbeTokens, layout.page_tokens())),
        num_layers_(std::min(kProbeLayers, model->spec().num_layers)) {
    layout_.slabs_per_page = 1;
    layout_.slab_bytes = RoundUp<int64_t>(layout_.groups[0].page_bytes(), kSlabAlign);
    const int64_t num_slabs = 1 + int64_t{layout_.num_groups()} * pages_per_group_;
    memory_ = backend->Allocate(static_cast<size_t>(num_slabs * layout_.slab_bytes));
    if (memory_ != nullptr) {
      pool_ = {static_cast<char*>(memory_->data()), layout_.slab_bytes, num_slabs};
    }
  }

  absl::Status Run() {
    if (memory_ == nullptr) {
      return absl::ResourceExhaustedError(absl::StrCat("not enough memory for the pages of ",
                                                       kProbeTokens,
                                                       " tokens at start; lower --kv-cache-bytes"));
    }
    const int32_t step = std::min(kProbeTokens, model_->limits().max_tokens);
    for (int32_t begin = 0; begin < kProbeTokens; begin += step) {
      RunStep(begin, std::min(begin + step, kProbeTokens));
    }
    return absl::OkStatus();
  }

  std::string Hash() const {
    std::vector<LayerSpec> layers(model_->spec().layers.begin(),
                                  model_->spec().layers.begin() + num_layers_);
    std::sort(layers.begin(), layers.end(), [](const LayerSpec& a, const LayerSpec& b) {
      return std::pair(a.group, a.layer_in_group) < std::pair(b.group, b.layer_in_group);
    });
    std::string rows;
    for (const LayerSpec& layer : layers) {
      AppendRows(layer, /*values=*/false, &rows);
      AppendRows(layer, /*values=*/true, &rows);
    }
    return HashText(rows);
  }

 private:
  PageId PageOf(int group, int32_t token) const {
    return 1 + group * pages_per_group_ + token / layout_.page_tokens();
  }

  void RunStep(int32_t begin, int32_t end) {
    std::vector<TokenId> tokens;
    std::vector<int32_t> positions;
    for (int32_t token = begin; token < end; ++token) {
      tokens.push_back(ProbeToken(token, model_->spec().vocab_size));
      positions.push_back(token);
    }
    std::vector<int64_t> write_places;
    std::vector<Range> run_ranges;
    std::vector<KvRun> runs;
    std::vector<PageId> pages;
    const int32_t page_tokens = layout_.page_tokens();
    for (int group = 0; group < layout_.num_groups(); ++group) {
      for (int32_t token = begin; token < end; ++token) {
        write_places.push_back(int64_t{PageOf(group, token)} * page_tokens + token % page_tokens);
      }
      KvRun run;
      run.page_begin = static_cast<int32_t>(pages.size());
      run.num_pages = CeilDiv(end, page_tokens);
      run.count = end;
      for (int32_t i = 0; i < run.num_pages; ++i) pages.push_back(PageOf(group, i * page_tokens));
      run_ranges.push_back({group, 1});
      runs.push_back(run);
    }
    BatchArena arena;
    StepBatch batch;
    batch.num_groups = layout_.num_groups();
    batch.tokens = arena.AddCopy(tokens);
    batch.positions = arena.AddCopy(positions);
    batch.write_places = arena.AddCopy(write_places);
    batch.segments = arena.AddCopy(std::vector<Segment>{{0, 0, end - begin, -1}});
    batch.run_ranges = arena.AddCopy(run_ranges);
    batch.runs = arena.AddCopy(runs);
    batch.pages = arena.AddCopy(pages);
    StepResult result;
    model_->Begin({&batch, arena.base()}, {pool_, &layout_}, &result);
    model_->RunLayers(0, num_layers_);
  }

  void AppendRows(const LayerSpec& layer, bool values, std::string* rows) const {
    const GroupLayout& group = layout_.groups[layer.group];
    const int64_t offset = values ? group.value_offset() : 0;
    for (int head = 0; head < group.kv_heads; ++head) {
      for (int32_t token = 0; token < kProbeTokens; ++token) {
        const char* const page = pool_.Page(PageOf(layer.group, token));
        const int64_t at = group.HeadOffset(layer.layer_in_group, head) + offset;
        for (const GroupLayout::TokenArray& array : group.token_arrays()) {
          const int64_t element = array.offset + token % group.page_tokens * array.element_bytes;
          std::string bytes(static_cast<size_t>(array.element_bytes), '\0');
          backend_->Download(page + at + element, bytes.data(), bytes.size());
          *rows += bytes;
        }
      }
    }
  }

  Backend* const backend_;
  Model* const model_;
  PageLayout layout_;  // the model's, with the smallest slabs
  const int32_t pages_per_group_;
  const int32_t num_layers_;
  std::unique_ptr<DeviceBuffer> memory_;  // null: it does not fit
  PoolView pool_;
};

}  // namespace

std::string FormatsText(const ModelWeights& weights, const PageLayout& layout) {
  std::string text = absl::StrCat(
      "embed ", FormatText(weights.embed->format()), "; head ",
      weights.lm_head == nullptr ? "tied" : FormatText(weights.lm_head->format()), "; layers");
  const size_t num_layers = weights.layers.size();
  for (size_t begin = 0, end = 0; begin < num_layers; begin = end) {
    const std::string formats = LayerFormats(weights.layers[begin]);
    while (end < num_layers && LayerFormats(weights.layers[end]) == formats) ++end;
    absl::StrAppend(&text, " ", begin, "-", end - 1, formats, ";");
  }
  absl::StrAppend(&text, " attention blocks of ", kAttentionBlock, "; kv");
  for (const GroupLayout& group : layout.groups) {
    absl::StrAppend(&text, " ", DTypeName(group.dtype));
  }
  return text;
}

absl::StatusOr<std::string> NumericsTag(Backend* backend, Model* model, const PageLayout& layout) {
  Probe probe(backend, model, layout);
  RETURN_IF_ERROR(probe.Run());
  return probe.Hash();
}

absl::StatusOr<std::string> NumericsKey(Backend* backend, Model* model, const PageLayout& layout) {
  ASSIGN_OR_RETURN(const std::string tag, NumericsTag(backend, model, layout));
  return absl::StrCat(FormatsText(model->weights(), layout), "; tag ", tag);
}

}  // namespace tessera
