#include "kernels/sample/sample_nucleus.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

namespace tessera::sampling {
namespace {

// If at most this many chunks have candidates, all candidates are collected without an estimate.
constexpr int64_t kFewChunks = 48;
// The estimate reads the first kLooked logits of each chunk: one logit in kSampled.
constexpr int64_t kLooked = 8;
constexpr int64_t kSampled = kChunk / kLooked;
constexpr int kBuckets = 1024;
// Half the width of the bracket, in standard errors of the estimated mass.
constexpr double kErrors = 3.0;

// The range of logits [lowest, highest] in which the cut is expected.
struct Bracket {
  float lowest = 0.0f;
  float highest = 0.0f;
};

// A histogram of the softmax weights of a sample of the row, by logit. Bucket b covers the logits
// [maximum - (b + 1) * width, maximum - b * width); the last bucket also covers all lower logits.
class Histogram final {
 public:
  Histogram(const LogitRow& row, const Softmax& softmax, float lowest)
      : softmax_(softmax),
        least_(LeastLogit(softmax)),
        width_((static_cast<double>(softmax.maximum) - lowest) / kBuckets) {
    LogitRow::Padded looked;
    int64_t filled = 0;
    for (int64_t begin = 0; begin + kLooked <= row.vocab(); begin += kChunk) {
      std::memcpy(looked.data() + filled, row.logits() + begin, kLooked * sizeof(float));
      filled += kLooked;
      if (filled < kChunk) continue;
      Add(row.passes(), looked);
      filled = 0;
    }
    std::fill(looked.begin() + filled, looked.end(), -std::numeric_limits<float>::infinity());
    Add(row.passes(), looked);
  }

  // Returns a bracket around the logit below which the tokens of the whole row have the total
  // weight `rest`. The sum is taken from the tail upwards: the tail consists of many tokens of
  // small weight, so a sample estimates the tail well even if a few best tokens dominate.
  Bracket Around(double rest, float lowest) const {
    Bracket bracket{lowest, softmax_.maximum};
    double below = 0.0;     // estimated weight of the row below the bucket's upper edge
    double variance = 0.0;  // variance of `below`
    const double growth = std::exp(width_ * softmax_.inverse_temperature);
    double edge_weight = std::exp(-(kBuckets - 1) * width_ * softmax_.inverse_temperature);
    for (int b = kBuckets - 1; b >= 0; --b) {
      below += kSampled * masses_[b];
      variance += kSampled * kSampled * masses_[b] * edge_weight;
      edge_weight *= growth;
      const double error = kErrors * std::sqrt(variance);
      const auto edge = static_cast<float>(softmax_.maximum - b * width_);
      if (below + error <= rest) bracket.lowest = std::max(lowest, edge);
      if (below - error >= rest) {
        bracket.highest = edge;
        break;
      }
    }
    return bracket;
  }

 private:
  void Add(const Passes& passes, const LogitRow::Padded& logits) {
    std::array<float, kChunk> weights;
    passes.weights(logits.data(), softmax_, least_, weights.data());
    for (size_t i = 0; i < weights.size(); ++i) {
      if (!(weights[i] > 0.0f)) continue;
      const double place = (static_cast<double>(softmax_.maximum) - logits[i]) / width_;
      masses_[static_cast<size_t>(std::min<double>(place, kBuckets - 1))] += weights[i];
    }
  }

  const Softmax softmax_;
  const float least_;
  const double width_;
  std::array<double, kBuckets> masses_{};
};

// Finds the cut whose kept tokens have at least the weight `mass`. Returns false if the cut does
// not lie in the bracket.
bool CutInBracket(const LogitRow& row, const std::vector<float>& maxima, const Softmax& softmax,
                  const Bracket& bracket, double mass, std::vector<Candidate>* candidates,
                  Cut* cut) {
  const float above = std::max(LeastLogit(softmax),
                               std::nextafter(bracket.highest, std::numeric_limits<float>::max()));
  LogitRow::Padded padded;
  double before = 0.0;
  for (int64_t chunk = 0; chunk < row.num_chunks(); ++chunk) {
    if (maxima[chunk] <= bracket.highest) continue;
    before += row.passes().mass(row.Chunk(chunk, &padded), softmax, above);
  }
  if (before >= mass) return false;
  SelectWithin(row, maxima, bracket.lowest, bracket.highest, candidates);
  if (before + Weigh(row, softmax, candidates) < mass) return false;
  *cut = CutByMass(mass - before, candidates);
  return true;
}

}  // namespace

Cut FindNucleus(const LogitRow& row, const std::vector<float>& maxima, const Softmax& softmax,
                double top_p, double total, std::vector<Candidate>* candidates) {
  // `rest` is the weight that the cut may drop. Tokens that weigh less than rest / vocab each sum
  // to less than `rest`, so all of them may be dropped; 0.99 leaves room for rounding.
  const double rest = (1.0 - top_p) * total;
  const double least_weight = 0.99 * rest / static_cast<double>(row.vocab());
  const auto lowest = static_cast<float>(
      std::max<double>(softmax.maximum + std::log(least_weight) / softmax.inverse_temperature,
                       std::numeric_limits<float>::lowest()));
  const int64_t chunks =
      std::count_if(maxima.begin(), maxima.end(), [lowest](float m) { return m >= lowest; });
  Cut cut;
  if (chunks > kFewChunks && lowest < softmax.maximum) {
    const Bracket bracket = Histogram(row, softmax, lowest).Around(rest, lowest);
    if (CutInBracket(row, maxima, softmax, bracket, top_p * total, candidates, &cut)) return cut;
  }
  SelectWithin(row, maxima, lowest, softmax.maximum, candidates);
  Weigh(row, softmax, candidates);
  return CutByMass(top_p * total, candidates);
}

}  // namespace tessera::sampling
