// Compares the sampler with a naive one: fp64, a full sort of the vocabulary, and the same uniform
// random number.
#include "kernels/sample/sample.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "kernels/base/thread_team.h"
#include "kernels/cpu/isa.h"
#include "kernels/sample/philox.h"
#include "kernels/sample/sample_nucleus.h"
#include "tests/lib/op_fixtures.h"

namespace tessera::testing {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

struct RowInput {
  SamplerRow row;
  std::vector<float> logits;
  std::vector<TokenBias> biases;
  std::vector<TokenCount> counts;
  std::vector<uint32_t> mask;
};

struct RowOutput {
  SampledRow sampled;
  std::vector<TokenLogprob> top;
  TokenId token() const { return sampled.token; }
};

RowOutput Sample(RowInput input) {
  static thread_local SampleScratch scratch;  // with the plain passes
  input.row.biases.count = static_cast<int32_t>(input.biases.size());
  input.row.counts.count = static_cast<int32_t>(input.counts.size());
  RowOutput output;
  output.top.resize(std::max(input.row.num_logprobs, 0));
  SampleRow(input.row, input.biases.data(), input.counts.data(),
            input.mask.empty() ? nullptr : input.mask.data(), input.logits.data(),
            static_cast<int64_t>(input.logits.size()), &scratch, &output.sampled,
            output.top.data());
  output.top.resize(output.sampled.top.count);
  return output;
}

std::vector<double> NaiveLogprobs(const std::vector<float>& logits) {
  const double maximum = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (float logit : logits) sum += std::exp(logit - maximum);
  std::vector<double> logprobs;
  logprobs.reserve(logits.size());
  for (float logit : logits) logprobs.push_back(logit - maximum - std::log(sum));
  return logprobs;
}

std::vector<float> NaiveAdjusted(const RowInput& input) {
  std::vector<float> logits = input.logits;
  for (const TokenCount& seen : input.counts) {
    float& logit = logits[seen.token];
    logit = logit > 0 ? logit / input.row.repetition_penalty : logit * input.row.repetition_penalty;
    if (seen.output_count > 0) logit -= input.row.presence_penalty;
    logit -= input.row.frequency_penalty * static_cast<float>(seen.output_count);
  }
  for (const TokenBias& bias : input.biases) logits[bias.token] += bias.bias;
  for (size_t i = 0; i < logits.size() && !input.mask.empty(); ++i) {
    if (((input.mask[i / 32] >> (i % 32)) & 1) == 0) logits[i] = -kInfinity;
  }
  return logits;
}

// Returns the probabilities from which the token is drawn; 0 for tokens that are cut off.
std::vector<double> NaiveDistribution(const RowInput& input) {
  const std::vector<float> logits = NaiveAdjusted(input);
  const SamplerRow& row = input.row;
  std::vector<int> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  std::vector<double> probability(logits.size(), 0.0);
  if (row.temperature == 0.0f) {
    probability[order[0]] = 1.0;
    return probability;
  }
  size_t kept = order.size();
  if (row.top_k > 0) kept = std::min<size_t>(kept, row.top_k);
  const auto weight = [&](size_t i) {
    return std::exp((static_cast<double>(logits[order[i]]) - logits[order[0]]) / row.temperature);
  };
  double total = 0.0;
  for (size_t i = 0; i < kept; ++i) total += weight(i);
  if (row.top_p < 1.0f) {
    double sum = 0.0;
    size_t i = 0;
    while (i < kept && (i == 0 || sum < row.top_p * total)) sum += weight(i++);
    kept = i;
  }
  total = 0.0;
  for (size_t i = 0; i < kept; ++i) {
    if (weight(i) < row.min_p) break;
    probability[order[i]] = weight(i);
    total += weight(i);
  }
  for (double& p : probability) p /= total;
  return probability;
}

// Returns the token that the row's uniform number selects, or -1 if the number is so close to the
// border between two tokens that fp32 may select the other.
TokenId NaiveToken(const RowInput& input) {
  const std::vector<double> probability = NaiveDistribution(input);
  const double uniform =
      UniformAt(input.row.seed, input.row.index, input.row.position, RandomUse::kSample);
  double sum = 0.0;
  for (size_t i = 0; i < probability.size(); ++i) {
    sum += probability[i];
    if (std::abs(sum - uniform) < 1e-6) return -1;
    if (sum > uniform) return static_cast<TokenId>(i);
  }
  return -1;
}

RowInput RandomRow(int vocab, uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto coin = [&random] { return random() % 2 == 0; };
  const auto uniform = [&random] { return static_cast<float>(random() % 10000) / 10000.0f; };
  RowInput input;
  input.logits = RandomFloats(vocab, coin() ? 3.0f : 0.3f, seed);
  if (coin()) {
    for (float& logit : input.logits) logit = std::round(logit * 2.0f) / 2.0f;  // many ties
  }
  SamplerRow& row = input.row;
  row.temperature = coin() ? 0.2f + 2.0f * uniform() : 1.0f;
  if (coin()) row.top_k = 1 + static_cast<int>(random() % (coin() ? 40 : vocab));
  if (coin()) row.top_p = uniform();
  if (coin()) row.min_p = uniform() * uniform();
  row.seed = random();
  row.index = static_cast<int32_t>(random() % 4);
  row.position = static_cast<int32_t>(random() % 1000);
  if (coin()) {
    row.repetition_penalty = 1.0f + uniform();
    row.presence_penalty = uniform();
    row.frequency_penalty = uniform() - 0.5f;
    for (int token = 0; token < vocab; token += 1 + static_cast<int>(random() % 7)) {
      const int count = static_cast<int>(random() % 3);
      input.counts.push_back({token, count, count == 0 || coin() ? 1 : 0});
    }
  }
  if (coin()) {
    input.biases.push_back({static_cast<TokenId>(random() % vocab), 2.0f});
    input.biases.push_back({static_cast<TokenId>(random() % vocab), -kInfinity});
  }
  if (coin()) {
    input.mask.assign(CeilDiv(vocab, 32), 0);
    for (uint32_t& word : input.mask) word = static_cast<uint32_t>(random() | random());
    input.mask[0] |= 1u;
  }
  return input;
}

TEST(Sampler, EqualsTheNaiveOne) {
  int num_judged = 0;
  int num_rows = 0;
  for (int vocab : {1, 2, 5, 31, 127, 128, 129, 255, 256, 257, 1000, 4097}) {
    for (uint64_t seed = 0; seed < 400; ++seed) {
      const RowInput input = RandomRow(vocab, seed * 977 + vocab);
      if (NaiveAdjusted(input) == std::vector<float>(vocab, -kInfinity)) continue;
      const TokenId expected = NaiveToken(input);
      ++num_rows;
      if (expected < 0) continue;
      ++num_judged;
      ASSERT_EQ(Sample(input).token(), expected) << "vocab " << vocab << " seed " << seed;
    }
  }
  EXPECT_GT(num_judged, num_rows * 95 / 100);
}

TEST(Sampler, EqualsTheNaiveOneOnALargeVocabulary) {
  for (uint64_t seed = 0; seed < 12; ++seed) {
    const RowInput input = RandomRow(151936, seed);
    const TokenId expected = NaiveToken(input);
    if (expected >= 0) {
      ASSERT_EQ(Sample(input).token(), expected) << "seed " << seed;
    }
  }
}

// Finds the nucleus of the same fp32 weights by a full sort.
sampling::Cut NaiveNucleus(const sampling::LogitRow& row, const sampling::Softmax& softmax,
                           double top_p, double total) {
  std::vector<sampling::Candidate> order;
  for (int64_t i = 0; i < row.vocab(); ++i) {
    order.push_back({row.logits()[i], 0.0f, static_cast<TokenId>(i)});
  }
  sampling::Weigh(row, softmax, &order);
  std::sort(order.begin(), order.end(), sampling::Better);
  double sum = 0.0;
  for (const sampling::Candidate& token : order) {
    sum += static_cast<double>(token.weight);
    if (sum >= top_p * total) return {token.value, token.id};
  }
  return {};
}

// Tests flat and peaked rows, rows with many equal logits, and rows whose sampled logits
// overestimate or underestimate the weight of the tail.
TEST(Sampler, NucleiEqualThoseOfAFullSort) {
  constexpr int kVocab = 40'001;
  const auto expect_equal = [](const std::vector<float>& logits, const std::string& what) {
    const sampling::LogitRow row(logits.data(), kVocab, &sampling::plain::kPasses);
    std::vector<float> maxima;
    std::vector<int64_t> odd_chunks;
    std::vector<double> masses;
    std::vector<sampling::Candidate> candidates;
    const sampling::Softmax softmax{sampling::ChunkMaxima(row, &maxima, &odd_chunks), 1.25f};
    const double total = sampling::ChunkMasses(row, maxima, softmax, {}, &masses);
    for (double top_p : {0.0, 0.02, 0.4, 0.9, 0.95, 0.999, 0.9999999}) {
      const sampling::Cut expected = NaiveNucleus(row, softmax, top_p, total);
      const sampling::Cut actual =
          sampling::FindNucleus(row, maxima, softmax, top_p, total, &candidates);
      EXPECT_EQ(actual.value, expected.value) << what << " top_p " << top_p;
      EXPECT_EQ(actual.last_id, expected.last_id) << what << " top_p " << top_p;
    }
  };
  for (float deviation : {0.01f, 0.5f, 1.0f, 2.0f, 4.0f, 8.0f}) {
    std::vector<float> logits = RandomFloats(kVocab, deviation, 17);
    const std::string name = "deviation " + std::to_string(deviation);
    expect_equal(logits, name);
    std::vector<float> ties = logits;
    for (float& logit : ties) logit = std::round(logit * 2.0f) / 2.0f;
    expect_equal(ties, name + ", ties");
    std::vector<float> peak = logits;
    peak[20'000] += 12.0f;
    expect_equal(peak, name + ", one token");
    for (float shift : {-3.0f, 3.0f}) {
      std::vector<float> misleading = logits;
      for (int i = 0; i < kVocab; ++i) misleading[i] += i % sampling::kChunk < 32 ? shift : 0.0f;
      expect_equal(misleading, name + ", misleading by " + std::to_string(shift));
    }
  }
}

TEST(Sampler, InstructionSetsGiveTheSameBits) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    std::vector<float> logits = RandomFloats(sampling::kChunk, 3.0f, seed);
    logits[seed] = kNaN;
    logits[100 + seed] = -kInfinity;
    logits[200] = logits[201];
    bool is_finite = true;
    const sampling::Softmax softmax{sampling::plain::kPasses.maximum(logits.data(), &is_finite),
                                    0.5f + static_cast<float>(seed)};
    const float lowest = std::max(seed % 2 == 0 ? -2.0f : -10.0f, sampling::LeastLogit(softmax));
    const auto all_of = [&](const sampling::Passes& passes) {
      std::vector<float> weights(sampling::kChunk);
      passes.weights(logits.data(), softmax, lowest, weights.data());
      std::vector<uint8_t> marks(sampling::kChunk);
      passes.mark(logits.data(), lowest, 1.5f, marks.data());
      bool finite_by_pass = true;
      const float maximum = passes.maximum(logits.data(), &finite_by_pass);
      EXPECT_FALSE(finite_by_pass);
      std::vector<float> finite = logits;
      for (float& logit : finite) logit = std::isfinite(logit) ? logit : 1.0f;
      passes.maximum(finite.data(), &finite_by_pass);
      EXPECT_TRUE(finite_by_pass);
      for (const float odd : {kNaN, -kNaN, kInfinity, -kInfinity}) {
        finite[7 * seed] = odd;
        passes.maximum(finite.data(), &finite_by_pass);
        EXPECT_FALSE(finite_by_pass) << odd;
      }
      return std::tuple(maximum, weights, passes.mass(logits.data(), softmax, lowest), marks);
    };
    const auto expected = all_of(sampling::plain::kPasses);
    for (const cpu::IsaKernels* kernels : cpu::SupportedKernels()) {
      EXPECT_EQ(all_of(*kernels->sample), expected) << kernels->name << " seed " << seed;
    }
    double sum = 0.0;
    for (size_t i = 0; i < logits.size(); ++i) {
      const double x =
          (static_cast<double>(logits[i]) - softmax.maximum) * softmax.inverse_temperature;
      const double weight = logits[i] >= lowest ? std::exp(x) : 0.0;
      const double tolerance = weight > 0.0 ? 1.2e-7 * (3.0 - x) * weight : 0.0;
      EXPECT_NEAR(std::get<1>(expected)[i], weight, tolerance);
      sum += std::get<1>(expected)[i];
      EXPECT_EQ(std::get<3>(expected)[i], logits[i] >= lowest && logits[i] <= 1.5f);
    }
    EXPECT_NEAR(std::get<2>(expected), sum, 1e-12 * sum);
  }
}

// Returns the tokens that many draws select.
std::set<TokenId> Drawn(RowInput input) {
  std::set<TokenId> tokens;
  for (int position = 0; position < 2000; ++position) {
    input.row.position = position;
    tokens.insert(Sample(input).token());
  }
  return tokens;
}

TEST(Sampler, KeepsExactlyTheRightSets) {
  RowInput input;
  // The probabilities of the ids 3, 0, 4, 1, 2 are 0.4, 0.2, 0.2, 0.1, 0.1.
  input.logits = {std::log(0.2f), std::log(0.1f), std::log(0.1f), std::log(0.4f), std::log(0.2f)};
  input.row.temperature = 1.0f;
  const RowInput plain = input;
  EXPECT_EQ(Drawn(input), (std::set<TokenId>{0, 1, 2, 3, 4}));
  input.row.top_k = 2;  // of the two tokens with 0.2, the lower id is kept
  EXPECT_EQ(Drawn(input), (std::set<TokenId>{0, 3}));
  input.row.top_k = 100;
  EXPECT_EQ(Drawn(input).size(), 5u);
  input = plain;
  input.row.top_p = 0.55f;
  EXPECT_EQ(Drawn(input), (std::set<TokenId>{0, 3}));
  input.row.top_p = 0.85f;
  EXPECT_EQ(Drawn(input), (std::set<TokenId>{0, 1, 3, 4}));
  input.row.top_p = 0.0f;
  EXPECT_EQ(Drawn(input), (std::set<TokenId>{3}));
  input.row.top_p = 0.62f;  // a share of the total 0.8 that top_k keeps
  input.row.top_k = 3;
  EXPECT_EQ(Drawn(input), (std::set<TokenId>{0, 3}));
  input = plain;
  input.row.min_p = 0.4f;
  EXPECT_EQ(Drawn(input), (std::set<TokenId>{0, 3, 4}));
  input.row.min_p = 1.0f;
  EXPECT_EQ(Drawn(input), (std::set<TokenId>{3}));
  input = plain;
  input.row.temperature = 0.01f;
  EXPECT_EQ(Drawn(input), (std::set<TokenId>{3}));
  input.row.temperature = 1e-42f;
  EXPECT_EQ(Drawn(input), (std::set<TokenId>{3}));
  input.row.temperature = 1e30f;
  EXPECT_EQ(Drawn(input).size(), 5u);
  input.logits = {3e38f, -3e38f, 3e38f};  // their difference exceeds the range of float
  input.row.temperature = 1e37f;
  for (float top_p : {1.0f, 0.9f}) {
    input.row.top_p = top_p;
    EXPECT_EQ(Drawn(input), (std::set<TokenId>{0, 2}));
  }
  input = plain;
  input.logits = {0.0f, 0.0f, 0.0f, 0.0f};
  input.row.top_p = 0.5f;  // the best token has exactly this probability
  EXPECT_EQ(Drawn(input), (std::set<TokenId>{0, 1}));
}

// Tests the chi-square statistic of 20,000 draws with a fixed seed. The bound is the 99.9th
// percentile of the chi-square distribution with the same degrees of freedom (Wilson and Hilferty).
void ExpectDistribution(RowInput input) {
  constexpr int kNumDraws = 20000;
  const std::vector<double> probability = NaiveDistribution(input);
  std::vector<int> counts(probability.size(), 0);
  for (int position = 0; position < kNumDraws; ++position) {
    input.row.position = position;
    ++counts[Sample(input).token()];
  }
  double chi_square = 0.0;
  int freedom = -1;
  double rest = 0.0;  // probability of the rare tokens, which are one class of the statistic
  int rest_count = 0;
  for (size_t i = 0; i < probability.size(); ++i) {
    const double expected = probability[i] * kNumDraws;
    if (expected == 0.0) {
      ASSERT_EQ(counts[i], 0) << "token " << i;
    }
    if (expected < 5.0) {
      rest += expected;
      rest_count += counts[i];
      continue;
    }
    chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
    ++freedom;
  }
  if (rest > 5.0) {
    chi_square += (rest_count - rest) * (rest_count - rest) / rest;
    ++freedom;
  }
  ASSERT_GT(freedom, 0);
  const double n = 2.0 / (9.0 * freedom);
  EXPECT_LT(chi_square, freedom * std::pow(1.0 - n + 3.09 * std::sqrt(n), 3.0)) << freedom;
}

TEST(Sampler, DrawsFromTheDistribution) {
  RowInput input;
  input.logits = RandomFloats(300, 2.0f, 3);
  input.row.seed = 12345;
  input.row.temperature = 1.0f;
  ExpectDistribution(input);
  input.row.temperature = 0.7f;
  input.row.top_p = 0.9f;
  ExpectDistribution(input);
  input.row.temperature = 1.5f;
  input.row.top_k = 40;
  ExpectDistribution(input);
  input.row.min_p = 0.05f;
  input.row.repetition_penalty = 1.3f;
  input.row.frequency_penalty = 0.5f;
  for (int i = 0; i < 300; i += 3) input.counts.push_back({i, i % 2, 1});
  ExpectDistribution(input);
}

TEST(Sampler, LogprobsAreOfTheUntouchedModel) {
  for (int vocab : {5, 128, 3000}) {
    RowInput input = RandomRow(vocab, 31 + vocab);
    input.row.num_logprobs = 10;
    input.counts = {{0, 2, 1}, {vocab - 1, 1, 0}};
    input.row.repetition_penalty = 1.7f;
    input.biases = {{2, 50.0f}};  // makes the sampler choose token 2
    input.mask.clear();
    const RowOutput output = Sample(input);
    const std::vector<double> expected = NaiveLogprobs(input.logits);
    EXPECT_EQ(output.token(), 2);
    EXPECT_NEAR(output.sampled.logprob, expected[2], 2e-6 + 1e-7 * std::abs(expected[2]));
    ASSERT_EQ(output.top.size(), static_cast<size_t>(std::min(10, vocab)));
    std::vector<int> order(vocab);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return input.logits[a] > input.logits[b]; });
    for (size_t i = 0; i < output.top.size(); ++i) {
      EXPECT_EQ(output.top[i].token, order[i]);
      EXPECT_NEAR(output.top[i].logprob, expected[order[i]], 2e-6);
    }
    // With row.target, the sampler scores that token with the same original logits.
    input.row.target = vocab / 2;
    const RowOutput scored = Sample(input);
    EXPECT_EQ(scored.token(), vocab / 2);
    EXPECT_NEAR(scored.sampled.logprob, expected[vocab / 2], 2e-6);
    EXPECT_EQ(scored.top.size(), output.top.size());
  }
}

TEST(Sampler, LogprobsDoNotChangeTheToken) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    RowInput input = RandomRow(700, seed);
    const TokenId token = Sample(input).token();
    for (int num_logprobs : {0, 1, 5, 700, 1000}) {
      input.row.num_logprobs = num_logprobs;
      const RowOutput output = Sample(input);
      ASSERT_EQ(output.token(), token);
      ASSERT_EQ(output.top.size(), static_cast<size_t>(std::min(num_logprobs, 700)));
    }
  }
}

TEST(Sampler, GreedyTakesTheLowestIdOfATie) {
  RowInput input;
  input.logits.assign(1000, 1.0f);
  input.logits[777] = input.logits[333] = 2.0f;
  EXPECT_EQ(Sample(input).token(), 333);
  input.biases = {{333, -kInfinity}};
  EXPECT_EQ(Sample(input).token(), 777);
  input.row.repetition_penalty = 4.0f;
  input.counts = {{777, 0, 1}};
  EXPECT_EQ(Sample(input).token(), 0);
  input.mask.assign(CeilDiv(1000, 32), 0);
  input.mask[10] = 1u << 5;
  EXPECT_EQ(Sample(input).token(), 325);
}

TEST(Sampler, RowsWithoutNumbersGiveADefinedToken) {
  for (float temperature : {0.0f, 1.0f}) {
    for (int num_logprobs : {-1, 3}) {
      RowInput input;
      input.row.temperature = temperature;
      input.row.num_logprobs = num_logprobs;
      input.row.top_p = 0.9f;
      input.row.top_k = 5;
      input.logits.assign(300, kNaN);
      EXPECT_EQ(Sample(input).token(), 0);
      EXPECT_EQ(Sample(input).top.size(), 0u);
      input.logits[200] = -3.0f;
      EXPECT_EQ(Sample(input).token(), 200);
      input.logits.assign(300, -kInfinity);
      EXPECT_EQ(Sample(input).token(), 0);
      input.mask.assign(CeilDiv(300, 32), 0);
      EXPECT_EQ(Sample(input).token(), 0);
      input.mask[3] = 1u << 4;
      EXPECT_EQ(Sample(input).token(), 100);
      input.mask.clear();
      input.logits[7] = kInfinity;
      EXPECT_EQ(Sample(input).token(), 7);
      if (num_logprobs > 0) {
        EXPECT_EQ(Sample(input).sampled.logprob, 0.0f);
        EXPECT_EQ(Sample(input).top[0].token, 7);
      }
    }
  }
}

// Each value is put alone into rows whose last chunk is full or not, at the ends of chunks. The row
// is told from a row whose tokens a caller has banned.
TEST(Sampler, RowsWithAValueThatIsNotFiniteAreReported) {
  for (const int vocab : {512, 700}) {
    for (uint64_t seed = 0; seed < 8; ++seed) {
      RowInput input = RandomRow(vocab, seed);
      input.row.num_logprobs = seed % 2 == 0 ? -1 : 2;
      input.row.target = seed % 4 == 3 ? 5 : -1;
      input.biases.push_back({9, -kInfinity});
      input.biases.push_back({vocab - 1, -kInfinity});
      EXPECT_TRUE(Sample(input).sampled.is_finite) << seed;
      for (const int token : {0, 9, 255, 256, 511, vocab - 1}) {
        for (const float odd : {kNaN, kInfinity, -kInfinity}) {
          RowInput bad = input;
          bad.logits[token] = odd;
          EXPECT_FALSE(Sample(bad).sampled.is_finite) << seed << " " << token << " " << odd;
          bad.mask.assign(CeilDiv(vocab, 32), 1u << 3);
          EXPECT_FALSE(Sample(bad).sampled.is_finite) << seed << " " << token << " " << odd;
        }
      }
      input.mask.assign(CeilDiv(vocab, 32), 1u << 3);
      EXPECT_TRUE(Sample(input).sampled.is_finite) << seed;
    }
  }
}

TEST(Sampler, ARowWhoseTokensAreAllBannedIsFinite) {
  RowInput input;
  input.row.temperature = 0.0f;
  input.logits.assign(300, 1.0f);
  for (TokenId token = 0; token < 300; ++token) input.biases.push_back({token, -kInfinity});
  EXPECT_TRUE(Sample(input).sampled.is_finite);
  EXPECT_EQ(Sample(input).token(), 0);
}

TEST(Sampler, OddArgumentsAreHarmless) {
  RowInput input = RandomRow(100, 3);
  input.biases = {{-1, 5.0f}, {100, 5.0f}};
  input.counts = {{-5, 1, 1}, {1000000, 1, 1}};
  input.row.num_logprobs = 2;
  EXPECT_GE(Sample(input).token(), 0);
  input.row.target = 100;
  EXPECT_EQ(Sample(input).sampled.logprob, -kInfinity);
}

// Samples a step of many rows by the backend, and again in pieces on several threads.
class SampleStep {
 public:
  static constexpr int kVocab = 500;
  static constexpr int kNumRows = 40;

  SampleStep() {
    std::vector<SamplerRow> rows;
    std::vector<TokenBias> biases;
    std::vector<TokenCount> counts;
    std::vector<uint32_t> masks;
    for (int r = 0; r < kNumRows; ++r) {
      RowInput input = RandomRow(kVocab, r);
      inputs_.push_back(input);
      input.row.slot = r % 8;
      input.row.num_logprobs = r % 4 - 1;
      if (r % 5 == 0) input.row.target = r;
      input.row.biases = {static_cast<int32_t>(biases.size()),
                          static_cast<int32_t>(input.biases.size())};
      input.row.counts = {static_cast<int32_t>(counts.size()),
                          static_cast<int32_t>(input.counts.size())};
      if (!input.mask.empty()) input.row.mask = static_cast<int32_t>(masks.size());
      biases.insert(biases.end(), input.biases.begin(), input.biases.end());
      counts.insert(counts.end(), input.counts.begin(), input.counts.end());
      masks.insert(masks.end(), input.mask.begin(), input.mask.end());
      rows.push_back(input.row);
      logits_.insert(logits_.end(), input.logits.begin(), input.logits.end());
    }
    rows_ = rows;
    batch_.sampler_rows = arena_.AddCopy(rows);
    batch_.biases = arena_.AddCopy(biases);
    batch_.counts = arena_.AddCopy(counts);
    batch_.masks = arena_.AddCopy(masks);
  }

  // Samples blocks of 16 rows of logits, as a model calls the sampler. run(args) samples one block.
  template <class RunBlock>
  StepResult Run(const RunBlock& run_block) {
    StepResult result;
    std::vector<float> logits = logits_;
    slot_tokens_.assign(8, -9);
    for (int begin = 0; begin < kNumRows; begin += 16) {
      SampleArgs args;
      args.batch = {&batch_, arena_.base()};
      args.row_begin = begin;
      args.num_rows = std::min(16, kNumRows - begin);
      args.logits = Tensor::F32(logits.data() + begin * kVocab, args.num_rows, kVocab);
      args.slot_tokens = slot_tokens_.data();
      PlaceOutputs(args.batch, &result, &args);
      run_block(args);
    }
    return result;
  }

  const std::vector<SamplerRow>& rows() const { return rows_; }
  const std::vector<RowInput>& inputs() const { return inputs_; }
  const std::vector<TokenId>& slot_tokens() const { return slot_tokens_; }

 private:
  std::vector<RowInput> inputs_;
  std::vector<SamplerRow> rows_;
  std::vector<float> logits_;
  std::vector<TokenId> slot_tokens_;
  StepBatch batch_;
  BatchArena arena_;
};

TEST(SampleStep, BackendFillsRowsTopAndSlots) {
  SampleStep step;
  const auto backend = NewRefBackend();
  const StepResult result = step.Run([&](const SampleArgs& args) { backend->Sample(args); });
  ThreadTeam team(2);
  for (const std::string& isa : CpuIsas()) {
    const auto cpu = NewCpuBackend(isa, &team);
    const StepResult same = step.Run([&](const SampleArgs& args) { cpu->Sample(args); });
    for (size_t r = 0; r < result.rows.size(); ++r) {
      EXPECT_EQ(same.rows[r].token, result.rows[r].token) << isa;
      EXPECT_EQ(same.rows[r].logprob, result.rows[r].logprob) << isa;
    }
  }
  ASSERT_EQ(result.rows.size(), static_cast<size_t>(SampleStep::kNumRows));
  std::vector<TokenId> slots(8, -9);
  int32_t top_begin = 0;
  for (int r = 0; r < SampleStep::kNumRows; ++r) {
    const SamplerRow& row = step.rows()[r];
    const SampledRow& sampled = result.rows[r];
    if (row.target >= 0) {
      EXPECT_EQ(sampled.token, row.target);
    } else {
      EXPECT_EQ(sampled.token, Sample(step.inputs()[r]).token());
      slots[row.slot] = sampled.token;
    }
    EXPECT_EQ(sampled.top.begin, top_begin);
    EXPECT_EQ(sampled.top.count, std::max(row.num_logprobs, 0));
    top_begin += sampled.top.count;
    const std::vector<double> logprobs = NaiveLogprobs(step.inputs()[r].logits);
    if (row.num_logprobs >= 0) {
      EXPECT_NEAR(sampled.logprob, logprobs[sampled.token], 2e-6);
    }
    for (int i = 0; i < sampled.top.count; ++i) {
      const TokenLogprob& top = result.top[sampled.top.begin + i];
      EXPECT_NEAR(top.logprob, logprobs[top.token], 2e-6);
    }
  }
  EXPECT_EQ(step.slot_tokens(), slots);
  EXPECT_EQ(result.top.size(), static_cast<size_t>(top_begin));
}

TEST(SampleStep, ThreadsDoNotShow) {
  SampleStep step;
  SampleScratch scratches[4];
  const StepResult alone = step.Run([&](const SampleArgs& args) {
    BeginSample(args);
    SampleRows(args, 0, args.num_rows, &scratches[0]);
    EndSample(args);
  });
  const StepResult together = step.Run([&](const SampleArgs& args) {
    BeginSample(args);
    std::vector<std::thread> threads;
    threads.reserve(4);
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        SampleRows(args, args.num_rows * t / 4, args.num_rows * (t + 1) / 4, &scratches[t]);
      });
    }
    for (std::thread& thread : threads) thread.join();
    EndSample(args);
  });
  ASSERT_EQ(alone.rows.size(), together.rows.size());
  for (size_t r = 0; r < alone.rows.size(); ++r) {
    EXPECT_EQ(alone.rows[r].token, together.rows[r].token);
    EXPECT_EQ(alone.rows[r].logprob, together.rows[r].logprob);
    EXPECT_EQ(alone.rows[r].top.begin, together.rows[r].top.begin);
  }
  for (size_t i = 0; i < alone.top.size(); ++i) {
    EXPECT_EQ(alone.top[i].token, together.top[i].token);
    EXPECT_EQ(alone.top[i].logprob, together.top[i].logprob);
  }
}

}  // namespace
}  // namespace tessera::testing
