#include "kernels/model/numerics.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kernels/base/status.h"
#include "kernels/model/checkpoint/content_hash.h"
#include "kernels/model/whole_sequences.h"

namespace tessera {
namespace {

constexpr int32_t kProbeTokens = 16;
constexpr int32_t kProbeLayers = 2;

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
        num_layers_(std::min(kProbeLayers, model->spec().num_layers)),
        sequences_(backend, layout, /*num_sequences=*/1, kProbeTokens) {}

  absl::Status Run() {
    if (!sequences_.allocated()) {
      return absl::ResourceExhaustedError(absl::StrCat("not enough memory for the pages of ",
                                                       kProbeTokens,
                                                       " tokens at start; lower --kv-cache-bytes"));
    }
    const int32_t step = std::min(kProbeTokens, model_->limits().max_tokens);
    std::vector<TokenId> tokens;
    while (static_cast<int32_t>(tokens.size()) < kProbeTokens) {
      const auto begin = static_cast<int32_t>(tokens.size());
      for (int32_t token = begin; token < std::min(begin + step, kProbeTokens); ++token) {
        tokens.push_back(ProbeToken(token, model_->spec().vocab_size));
      }
      sequences_.Begin(model_, {tokens}, begin);
      model_->RunLayers(0, num_layers_);
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
  void AppendRows(const LayerSpec& layer, bool values, std::string* rows) const {
    const GroupLayout& group = sequences_.layout().groups[layer.group];
    const int64_t offset = values ? group.value_offset() : 0;
    for (int head = 0; head < group.kv_heads; ++head) {
      for (int32_t token = 0; token < kProbeTokens; ++token) {
        const char* const page =
            sequences_.pool().Page(sequences_.PageOf(/*sequence=*/0, layer.group, token));
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
  const int32_t num_layers_;
  WholeSequences sequences_;
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
