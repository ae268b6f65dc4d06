#include "kernels/sample_select.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

namespace tessera::sampling {
namespace {

constexpr int kLanes = 16;
constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

// `condition` ? value : 0, without a branch.
inline float Select(bool condition, float value) {
  return std::bit_cast<float>(std::bit_cast<uint32_t>(value) & (condition ? ~0u : 0u));
}

// exp(x) for x <= 0 within 2 units in the last place; 0 below -87 and for NaN. Plain arithmetic, so
// that the compiler may vectorise it and every machine gives the same bits. 2^(n + f) with x = (n +
// f) ln 2, |f| <= 1/2; the polynomial is Cephes' expf.
inline float ExpNegative(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer
  const float shifted = x * 1.44269504088896341f + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const uint32_t exponent = std::bit_cast<uint32_t>(shifted) << 23;
  return Select(x >= -87.0f, std::bit_cast<float>(std::bit_cast<uint32_t>(p) + exponent));
}

inline float KeptWeight(const Softmax& softmax, const Cut& kept, float logit, TokenId id) {
  const bool keep = (logit > kept.value) | ((logit == kept.value) & (id <= kept.last_id));
  return Select(keep, ExpNegative((logit - softmax.maximum) * softmax.inverse_temperature));
}

// weights := those of tokens [begin, end).
inline void ChunkWeights(const float* logits, int64_t begin, int64_t end, const Softmax& softmax,
                         const Cut& kept, float* weights) {
  for (int64_t i = begin; i < end; ++i) {
    weights[i - begin] = KeptWeight(softmax, kept, logits[i], static_cast<TokenId>(i));
  }
}

// Leaves the candidates among which a prefix of weight `mass` ends; returns the weight of those
// before them. Buckets by logit, which keep the order: one pass, where halving thousands of
// candidates would take a dozen.
double NarrowByMass(double mass, std::vector<Candidate>* candidates) {
  constexpr size_t kBuckets = 1024;
  if (candidates->size() < 2 * kBuckets) return 0.0;
  const auto lower = [](const Candidate& a, const Candidate& b) { return a.value < b.value; };
  const auto [least, most] = std::minmax_element(candidates->begin(), candidates->end(), lower);
  const float top = most->value;
  const float range = top - least->value;
  if (!(range > 0.0f) || !std::isfinite(range)) return 0.0;
  const auto bucket_of = [top, range](const Candidate& c) {
    const float place = (top - c.value) / range * static_cast<float>(kBuckets);
    return std::min(static_cast<size_t>(place), kBuckets - 1);
  };
  std::array<double, kBuckets> weights{};
  for (const Candidate& c : *candidates) weights[bucket_of(c)] += static_cast<double>(c.weight);
  double before = 0.0;
  size_t last = 0;
  while (last + 1 < kBuckets && before + weights[last] < mass) before += weights[last++];
  candidates->erase(std::remove_if(candidates->begin(), candidates->end(),
                                   [&](const Candidate& c) { return bucket_of(c) != last; }),
                    candidates->end());
  return before;
}

}  // namespace

Cut Stricter(const Cut& a, const Cut& b) {
  if (a.value != b.value) return a.value > b.value ? a : b;
  return a.last_id < b.last_id ? a : b;
}

float Weight(const Softmax& softmax, float logit) {
  return ExpNegative((logit - softmax.maximum) * softmax.inverse_temperature);
}

float ChunkMaxima(const float* logits, int64_t vocab, std::vector<float>* maxima) {
  maxima->resize(CeilDiv(vocab, kChunk));
  float maximum = kNegativeInfinity;
  for (int64_t begin = 0; begin < vocab; begin += kChunk) {
    const int64_t end = std::min(begin + kChunk, vocab);
    float lanes[kLanes];
    std::fill(lanes, lanes + kLanes, kNegativeInfinity);
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      for (int j = 0; j < kLanes; ++j) {
        lanes[j] = logits[i + j] > lanes[j] ? logits[i + j] : lanes[j];
      }
    }
    for (; i < end; ++i) lanes[0] = logits[i] > lanes[0] ? logits[i] : lanes[0];
    (*maxima)[begin / kChunk] = *std::max_element(lanes, lanes + kLanes);
    maximum = std::max(maximum, (*maxima)[begin / kChunk]);
  }
  return maximum;
}

TokenId FindMaximum(const float* logits, int64_t vocab, const std::vector<float>& maxima,
                    float maximum) {
  const int64_t chunk = std::find(maxima.begin(), maxima.end(), maximum) - maxima.begin();
  const float* begin = logits + chunk * kChunk;
  return static_cast<TokenId>(std::find(begin, logits + vocab, maximum) - logits);
}

double ChunkMasses(const float* logits, int64_t vocab, const std::vector<float>& maxima,
                   const Softmax& softmax, const Cut& kept, std::vector<double>* masses) {
  masses->resize(maxima.size());
  double total = 0.0;
  for (size_t chunk = 0; chunk < maxima.size(); ++chunk) {
    (*masses)[chunk] = 0.0;
    if (maxima[chunk] < kept.value) continue;
    const int64_t begin = static_cast<int64_t>(chunk) * kChunk;
    const int64_t end = std::min(begin + kChunk, vocab);
    float weights[kChunk] = {};
    ChunkWeights(logits, begin, end, softmax, kept, weights);
    double lanes[kLanes] = {};
    for (int64_t i = 0; i < kChunk; i += kLanes) {
      for (int j = 0; j < kLanes; ++j) lanes[j] += static_cast<double>(weights[i + j]);
    }
    for (int j = 0; j < kLanes; ++j) (*masses)[chunk] += lanes[j];
    total += (*masses)[chunk];
  }
  return total;
}

void SelectBest(const float* logits, int64_t vocab, const std::vector<float>& maxima, int64_t k,
                std::vector<float>* maxima_scratch, std::vector<Candidate>* candidates) {
  // At least k logits are as large as the k-th largest maximum.
  float lowest = kNegativeInfinity;
  if (k <= static_cast<int64_t>(maxima.size())) {
    maxima_scratch->assign(maxima.begin(), maxima.end());
    const auto kth = maxima_scratch->begin() + (k - 1);
    std::nth_element(maxima_scratch->begin(), kth, maxima_scratch->end(), std::greater<float>());
    lowest = *kth;
  }
  SelectAbove(logits, vocab, maxima, lowest, candidates);
  if (static_cast<int64_t>(candidates->size()) <= k) {
    const auto worst = std::max_element(candidates->begin(), candidates->end(), Better);
    if (worst != candidates->end()) std::iter_swap(worst, candidates->end() - 1);
    return;
  }
  std::nth_element(candidates->begin(), candidates->begin() + (k - 1), candidates->end(), Better);
  candidates->resize(k);
}

void SelectAbove(const float* logits, int64_t vocab, const std::vector<float>& maxima, float lowest,
                 std::vector<Candidate>* candidates) {
  candidates->clear();
  for (size_t chunk = 0; chunk < maxima.size(); ++chunk) {
    if (maxima[chunk] < lowest) continue;
    const int64_t begin = static_cast<int64_t>(chunk) * kChunk;
    const int64_t end = std::min(begin + kChunk, vocab);
    for (int64_t i = begin; i < end; ++i) {
      if (logits[i] >= lowest) candidates->push_back({logits[i], 0.0f, static_cast<TokenId>(i)});
    }
  }
}

Cut CutByMass(double mass, std::vector<Candidate>* candidates) {
  double before = NarrowByMass(mass, candidates);
  // Halving: the answer's end lies in (low, high], and `before` is the weight of [0, low).
  size_t low = 0;
  size_t high = candidates->size();
  const auto at = [candidates](size_t i) { return candidates->begin() + i; };
  while (high - low > 1) {
    const size_t middle = low + (high - low) / 2;
    std::nth_element(at(low), at(middle), at(high), Better);
    double weight = 0.0;
    for (size_t i = low; i < middle; ++i) weight += static_cast<double>((*candidates)[i].weight);
    if (before + weight >= mass) {
      high = middle;
    } else {
      before += weight;
      low = middle;
    }
  }
  return {(*candidates)[low].value, (*candidates)[low].id};
}

TokenId Draw(const float* logits, int64_t vocab, const Softmax& softmax, const Cut& kept,
             const std::vector<double>& masses, double point) {
  double before = 0.0;
  int64_t chosen = -1;
  for (size_t chunk = 0; chunk < masses.size(); ++chunk) {
    if (masses[chunk] == 0.0) continue;
    chosen = static_cast<int64_t>(chunk);
    if (before + masses[chunk] > point) break;
    before += masses[chunk];
  }
  if (chosen < 0) return 0;
  const int64_t begin = chosen * kChunk;
  const int64_t end = std::min(begin + kChunk, vocab);
  float weights[kChunk] = {};
  ChunkWeights(logits, begin, end, softmax, kept, weights);
  TokenId token = 0;
  for (int64_t i = begin; i < end; ++i) {
    if (weights[i - begin] == 0.0f) continue;
    token = static_cast<TokenId>(i);
    before += static_cast<double>(weights[i - begin]);
    if (before > point) break;
  }
  return token;
}

}  // namespace tessera::sampling
