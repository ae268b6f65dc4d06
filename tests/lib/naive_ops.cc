#include "tests/lib/naive_ops.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <utility>

#include "tests/lib/kv_rows.h"

namespace tessera::testing {
namespace {

using Vector = std::vector<double>;

void Norm(const std::vector<float>& weight, bool on, Vector* x) {
  if (!on) return;
  double sum = 0.0;
  for (double value : *x) sum += value * value;
  const double factor = 1.0 / std::sqrt(sum / static_cast<double>(x->size()) + 1e-6);
  for (size_t i = 0; i < x->size(); ++i) (*x)[i] *= factor * weight[i];
}

void Turn(const RopeSpec& rope, int position, Vector* x) {
  const size_t half = rope.inv_freq.size();
  for (size_t i = 0; i < half; ++i) {
    const double angle = static_cast<float>(position) * rope.inv_freq[i];
    const double a = (*x)[i];
    const double b = (*x)[i + half];
    (*x)[i] = (a * std::cos(angle) - b * std::sin(angle)) * rope.attention_factor;
    (*x)[i + half] = (b * std::cos(angle) + a * std::sin(angle)) * rope.attention_factor;
  }
}

// One key of a segment's runs.
struct Key {
  int64_t place = 0;  // page * page_tokens + token
  int position = 0;
  int stream = 0;
  KvRun run;
};

std::vector<Key> KeysOf(const BuiltBatch& built, int group, int segment) {
  const BatchView view = built.view();
  const int page_tokens = built.layout.page_tokens();
  std::vector<Key> keys;
  const Range range = view.run_range(group, segment);
  for (int r = range.begin; r < range.begin + range.count; ++r) {
    const KvRun& run = view.runs()[r];
    for (int i = 0; i < run.count; ++i) {
      const int at = run.first + i;
      Key key;
      key.run = run;
      key.position = run.pos_begin + i;
      key.place =
          static_cast<int64_t>(view.pages()[run.page_begin + at / page_tokens]) * page_tokens +
          at % page_tokens;
      if (!keys.empty()) {
        const Key& last = keys.back();
        const bool same = key.position == last.position + 1 &&
                          run.pos_delta == last.run.pos_delta &&
                          run.temperature == last.run.temperature && run.scale == last.run.scale;
        key.stream = same ? last.stream : last.stream + 1;
      }
      keys.push_back(key);
    }
  }
  return keys;
}

class Computation {
 public:
  Computation(BuiltBatch* built, int group, int layer)
      : built_(*built), attention_(built->attention), group_(group), layer_(layer) {}

  NaiveAttention Run();

 private:
  Vector QkvHead(int row, int head) const {
    const float* begin = built_.qkv.data() + static_cast<size_t>(row) * built_.qkv_cols() +
                         static_cast<size_t>(head) * attention_.head_dim;
    return Vector(begin, begin + attention_.head_dim);
  }
  std::vector<float> Rounded(const Vector& x, int part) const {
    return AsStored(built_.layout.groups[group_], std::vector<float>(x.begin(), x.end()), part);
  }
  // Returns a K or V row as the pages hold it after the step has appended its tokens.
  std::vector<float> Stored(int64_t place, int kv_head, int part) {
    const auto found = appended_.find({place, kv_head * 2 + part});
    if (found != appended_.end()) return found->second;
    const int page_tokens = attention_.page_tokens;
    return ReadHead(&built_, group_, layer_, static_cast<PageId>(place / page_tokens),
                    static_cast<int>(place % page_tokens), kv_head, part);
  }
  // Rounds a query element or an exponential to bf16 if it is multiplied with bf16 numbers of a
  // page.
  double RoundedForPairs(double x) const {
    if (attention_.kv_dtype != DType::kBF16) return x;
    return BF16ToFloat(FloatToBF16(static_cast<float>(x)));
  }
  void Append();
  void Attend(int row, int head, const std::vector<Key>& keys);

  BuiltBatch& built_;
  const AttentionCase& attention_;
  const int group_;
  const int layer_;
  std::map<std::pair<int64_t, int>, std::vector<float>> appended_;
  NaiveAttention result_;
};

void Computation::Append() {
  const BatchView view = built_.view();
  const int page_tokens = attention_.page_tokens;
  for (int row = 0; row < built_.num_tokens(); ++row) {
    const int64_t place = view.write_places(group_)[row];
    double deviation = 0.0;
    for (int h = 0; h < attention_.kv_heads; ++h) {
      Vector key = QkvHead(row, attention_.heads + h);
      Norm(built_.k_norm, attention_.qk_norm, &key);
      Turn(built_.rope, view.positions()[row], &key);
      const std::vector<float> k = Rounded(key, 0);
      const std::vector<float> v =
          Rounded(QkvHead(row, attention_.heads + attention_.kv_heads + h), 1);
      result_.keys.insert(result_.keys.end(), k.begin(), k.end());
      result_.values.insert(result_.values.end(), v.begin(), v.end());
      if (place < page_tokens) continue;
      const std::vector<float> old = Stored(place, h, 1);
      for (size_t d = 0; d < v.size(); ++d) {
        deviation += (static_cast<double>(v[d]) - old[d]) * (static_cast<double>(v[d]) - old[d]);
      }
      appended_[{place, h * 2}] = k;
      appended_[{place, h * 2 + 1}] = v;
    }
    result_.value_deviation.push_back(deviation);
  }
}

void Computation::Attend(int row, int head, const std::vector<Key>& keys) {
  const int window = built_.layout.groups[group_].window;
  const int kv_head = head / (attention_.heads / attention_.kv_heads);
  const int position = built_.view().positions()[row];
  const double scale = 1.0f / std::sqrt(static_cast<float>(attention_.head_dim));
  std::map<size_t, double> scores;                  // [key]
  std::map<std::pair<int, int>, double> block_max;  // [stream, block]
  std::map<int, double> stream_sum;     // [stream] sum of exp(score); scores are small in tests
  std::map<int, double> stream_weight;  // [stream] exp(scale * log-sum-exp)
  for (size_t i = 0; i < keys.size(); ++i) {
    const Key& key = keys[i];
    if (key.position > position) continue;
    if (window > 0 && key.position <= position - window) continue;
    Vector query = QkvHead(row, head);
    Norm(built_.q_norm, attention_.qk_norm, &query);
    Turn(built_.rope, position - key.run.pos_delta, &query);
    const std::vector<float> stored = Stored(key.place, kv_head, 0);
    double score = 0.0;
    for (int d = 0; d < attention_.head_dim; ++d) score += RoundedForPairs(query[d]) * stored[d];
    score *= scale;
    if (attention_.softcap > 0.0f) {
      score = attention_.softcap * std::tanh(score / attention_.softcap);
    }
    scores[i] = score / key.run.temperature;
    double& max = block_max.try_emplace({key.stream, key.position / kAttentionBlock}, scores[i])
                      .first->second;
    max = std::max(max, scores[i]);
    stream_sum[key.stream] += std::exp(scores[i]);
    stream_weight[key.stream] = key.run.scale;
  }
  double total = 0.0;
  for (auto& [stream, weight] : stream_weight) {
    weight = std::exp(weight * std::log(stream_sum[stream]));
    total += weight;
  }
  Vector out(attention_.head_dim, 0.0);
  for (const auto& [i, score] : scores) {
    const int stream = keys[i].stream;
    const double share = stream_weight[stream] / total / stream_sum[stream];
    const double max = block_max[{stream, keys[i].position / kAttentionBlock}];
    const double weight = share * std::exp(max) * RoundedForPairs(std::exp(score - max));
    const std::vector<float> value = Stored(keys[i].place, kv_head, 1);
    for (int d = 0; d < attention_.head_dim; ++d) out[d] += weight * value[d];
    result_.mass[row][i] += share * std::exp(score);
  }
  result_.out.insert(result_.out.end(), out.begin(), out.end());
  result_.lse.push_back(static_cast<float>(std::log(total)));
}

NaiveAttention Computation::Run() {
  Append();
  result_.mass.resize(built_.num_tokens());
  for (int s = 0; s < built_.view().num_segments(); ++s) {
    const Segment& segment = built_.view().segments()[s];
    const std::vector<Key> keys = KeysOf(built_, group_, s);
    for (int i = 0; i < segment.num_tokens; ++i) {
      result_.mass[segment.token_begin + i].resize(keys.size());
      for (int h = 0; h < attention_.heads; ++h) Attend(segment.token_begin + i, h, keys);
    }
  }
  return std::move(result_);
}

}  // namespace

std::vector<float> ReadHead(BuiltBatch* built, int group, int layer_in_group, PageId page,
                            int token, int kv_head, int part) {
  const GroupLayout& layout = built->layout.groups[group];
  const char* head = built->pool().Page(page) + layout.HeadOffset(layer_in_group, kv_head) +
                     part * layout.value_offset();
  return LoadKvRow(layout, head, token, part);
}

NaiveAttention ComputeNaiveAttention(BuiltBatch* built, int group, int layer_in_group) {
  return Computation(built, group, layer_in_group).Run();
}

}  // namespace tessera::testing
