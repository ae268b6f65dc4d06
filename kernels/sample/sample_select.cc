#include "kernels/sample/sample_select.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

namespace tessera::sampling {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Calls visit(i) for each i with marks[i] != 0, in ascending order.
template <class Visit>
void ForEachMarked(const std::array<uint8_t, kChunk>& marks, const Visit& visit) {
  for (size_t begin = 0; begin < kChunk; begin += sizeof(uint64_t)) {
    uint64_t bytes = 0;
    std::memcpy(&bytes, marks.data() + begin, sizeof(bytes));
    for (; bytes != 0; bytes &= bytes - 1) visit(begin + std::countr_zero(bytes) / 8);
  }
}

// A chunk and the smallest kept logit: exactly the tokens with a logit >= lowest are kept.
struct KeptChunk {
  const float* logits = nullptr;
  float lowest = 0.0f;
};

// Describes the kept tokens of a chunk by one threshold. A chunk that contains kept.last_id may
// have later tokens with the logit kept.value, which are not kept: they are replaced by -infinity
// in a copy of the chunk in `padded`.
KeptChunk Keep(const LogitRow& row, int64_t chunk, const Cut& kept, LogitRow::Padded* padded) {
  const float* const logits = row.Chunk(chunk, padded);
  const TokenId first = LogitRow::FirstToken(chunk);
  if (kept.last_id < first) return {logits, std::nextafter(kept.value, kInfinity)};
  if (kept.last_id - first >= kChunk - 1) return {logits, kept.value};
  if (logits != padded->data()) std::copy_n(logits, kChunk, padded->begin());
  std::replace(padded->begin() + (kept.last_id - first + 1), padded->end(), kept.value, -kInfinity);
  return {padded->data(), kept.value};
}

// Sorts the candidates into buckets by logit, and keeps only the bucket in which the best-first
// prefix of weight `mass` ends. Returns the summed weight of the removed buckets with larger
// logits. Two passes replace about a dozen passes of CutByMass's halving.
double NarrowByMass(double mass, std::vector<Candidate>* candidates) {
  constexpr int kBuckets = 256;
  if (candidates->size() < 2 * kBuckets) return 0.0;
  const auto lower = [](const Candidate& a, const Candidate& b) { return a.value < b.value; };
  const auto [least, most] = std::minmax_element(candidates->begin(), candidates->end(), lower);
  const float top = most->value;
  const float scale = static_cast<float>(kBuckets) / (top - least->value);
  if (!std::isnormal(scale)) return 0.0;
  const auto bucket_of = [top, scale](const Candidate& c) {
    return std::min(static_cast<int>((top - c.value) * scale), kBuckets - 1);
  };
  std::array<double, kBuckets> masses{};
  for (const Candidate& c : *candidates) masses[bucket_of(c)] += static_cast<double>(c.weight);
  double before = 0.0;
  int last = 0;
  while (last + 1 < kBuckets && before + masses[last] < mass) before += masses[last++];
  std::erase_if(*candidates, [&](const Candidate& c) { return bucket_of(c) != last; });
  return before;
}

}  // namespace

float CeilToFloat(double value) {
  const float rounded = static_cast<float>(value);
  return rounded < value ? std::nextafter(rounded, kInfinity) : rounded;
}

float LeastLogit(const Softmax& softmax) {
  const double least = softmax.maximum + static_cast<double>(kLeastExponent) /
                                             static_cast<double>(softmax.inverse_temperature);
  // logit - maximum must also be a finite float.
  const double finite =
      static_cast<double>(std::numeric_limits<float>::lowest()) + std::max(0.0f, softmax.maximum);
  return CeilToFloat(std::max(least, finite));
}

Cut Stricter(const Cut& a, const Cut& b) {
  if (a.value != b.value) return a.value > b.value ? a : b;
  return a.last_id < b.last_id ? a : b;
}

const float* LogitRow::Chunk(int64_t chunk, Padded* padded) const {
  const float* const logits = logits_ + chunk * kChunk;
  const int64_t count = vocab_ - chunk * kChunk;
  if (count >= kChunk) return logits;
  std::fill(std::copy_n(logits, count, padded->begin()), padded->end(), -kInfinity);
  return padded->data();
}

float ChunkMaxima(const LogitRow& row, std::vector<float>* maxima,
                  std::vector<int64_t>* odd_chunks) {
  maxima->resize(row.num_chunks());
  odd_chunks->clear();
  LogitRow::Padded padded;
  float maximum = -kInfinity;
  for (int64_t chunk = 0; chunk < row.num_chunks(); ++chunk) {
    bool is_finite = true;
    (*maxima)[chunk] = row.passes().maximum(row.Chunk(chunk, &padded), &is_finite);
    maximum = std::max(maximum, (*maxima)[chunk]);
    if (!is_finite) odd_chunks->push_back(chunk);
  }
  // The padding of the last chunk is infinite.
  const auto is_finite = [](float logit) { return std::isfinite(logit); };
  const int64_t last = row.num_chunks() - 1;
  if (!odd_chunks->empty() && odd_chunks->back() == last &&
      std::all_of(row.logits() + last * kChunk, row.logits() + row.vocab(), is_finite)) {
    odd_chunks->pop_back();
  }
  return maximum;
}

TokenId FindMaximum(const LogitRow& row, const std::vector<float>& maxima, float maximum) {
  const int64_t chunk = std::find(maxima.begin(), maxima.end(), maximum) - maxima.begin();
  const float* const begin = row.logits() + chunk * kChunk;
  return static_cast<TokenId>(std::find(begin, row.logits() + row.vocab(), maximum) - row.logits());
}

double ChunkMasses(const LogitRow& row, const std::vector<float>& maxima, const Softmax& softmax,
                   const Cut& kept, std::vector<double>* masses) {
  masses->resize(maxima.size());
  const float least = LeastLogit(softmax);
  LogitRow::Padded padded;
  double total = 0.0;
  for (int64_t chunk = 0; chunk < row.num_chunks(); ++chunk) {
    double& mass = (*masses)[chunk];
    mass = 0.0;
    if (maxima[chunk] < kept.value) continue;
    const KeptChunk part = Keep(row, chunk, kept, &padded);
    mass = row.passes().mass(part.logits, softmax, std::max(part.lowest, least));
    total += mass;
  }
  return total;
}

void SelectBest(const LogitRow& row, const std::vector<float>& maxima, int64_t k,
                std::vector<float>* maxima_scratch, std::vector<Candidate>* candidates) {
  // At least k logits are >= the k-th largest chunk maximum, so the k best are.
  float lowest = -kInfinity;
  if (k <= static_cast<int64_t>(maxima.size())) {
    maxima_scratch->assign(maxima.begin(), maxima.end());
    const auto kth = maxima_scratch->begin() + (k - 1);
    std::nth_element(maxima_scratch->begin(), kth, maxima_scratch->end(), std::greater<float>());
    lowest = *kth;
  }
  SelectWithin(row, maxima, lowest, kInfinity, candidates);
  if (static_cast<int64_t>(candidates->size()) <= k) {
    const auto worst = std::max_element(candidates->begin(), candidates->end(), Better);
    if (worst != candidates->end()) std::iter_swap(worst, candidates->end() - 1);
    return;
  }
  std::nth_element(candidates->begin(), candidates->begin() + (k - 1), candidates->end(), Better);
  candidates->resize(k);
}

void SelectWithin(const LogitRow& row, const std::vector<float>& maxima, float lowest,
                  float highest, std::vector<Candidate>* candidates) {
  candidates->clear();
  std::array<uint8_t, kChunk> marks;
  for (int64_t chunk = 0; chunk < row.num_chunks(); ++chunk) {
    if (maxima[chunk] < lowest) continue;
    LogitRow::Padded padded;
    const float* const logits = row.Chunk(chunk, &padded);
    row.passes().mark(logits, lowest, highest, marks.data());
    ForEachMarked(marks, [&](size_t i) {
      const TokenId id = LogitRow::FirstToken(chunk) + static_cast<TokenId>(i);
      if (id < row.vocab()) candidates->push_back({logits[i], 0.0f, id});
    });
  }
}

double Weigh(const LogitRow& row, const Softmax& softmax, std::vector<Candidate>* candidates) {
  const float least = LeastLogit(softmax);
  double sum = 0.0;
  for (size_t begin = 0; begin < candidates->size(); begin += kChunk) {
    const size_t count = std::min<size_t>(kChunk, candidates->size() - begin);
    LogitRow::Padded logits;
    logits.fill(-kInfinity);
    for (size_t i = 0; i < count; ++i) logits[i] = (*candidates)[begin + i].value;
    std::array<float, kChunk> weights;
    row.passes().weights(logits.data(), softmax, least, weights.data());
    for (size_t i = 0; i < count; ++i) {
      (*candidates)[begin + i].weight = weights[i];
      sum += static_cast<double>(weights[i]);
    }
  }
  return sum;
}

Cut CutByMass(double mass, std::vector<Candidate>* candidates) {
  double before = NarrowByMass(mass, candidates);
  // Binary search by partition: the prefix ends in (low, high], and `before` is the weight of the
  // candidates [0, low) and of those that NarrowByMass removed.
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

TokenId Draw(const LogitRow& row, const Softmax& softmax, const Cut& kept,
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
  const TokenId first = LogitRow::FirstToken(chosen);
  LogitRow::Padded padded;
  std::array<float, kChunk> weights;
  const KeptChunk part = Keep(row, chosen, kept, &padded);
  row.passes().weights(part.logits, softmax, std::max(part.lowest, LeastLogit(softmax)),
                       weights.data());
  TokenId token = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] == 0.0f) continue;
    token = first + static_cast<TokenId>(i);
    before += static_cast<double>(weights[i]);
    if (before > point) break;
  }
  return token;
}

}  // namespace tessera::sampling
