// Tests of WholeSequences: sequences that are computed together have the logits of sequences that
// are computed alone, bit for bit.
#include "kernels/model/whole_sequences.h"

#include <gtest/gtest.h>

#include "tests/lib/tiny_model.h"

namespace tessera::testing {
namespace {

using Sequences = std::vector<std::vector<TokenId>>;

std::vector<float> RowsOf(Model* model, int32_t num_rows) {
  std::vector<int32_t> rows;
  for (int32_t row = 0; row < num_rows; ++row) rows.push_back(row);
  return model->ComputeLogits(rows);
}

// Computes all sequences from token `first` on and returns the logits of the step's rows.
std::vector<float> Compute(WholeSequences* whole, Model* model, const Sequences& sequences,
                           int32_t first = 0) {
  whole->Begin(model, sequences, first);
  model->RunLayers(0, model->spec().num_layers);
  model->Finish();
  int32_t num_rows = 0;
  for (const auto& sequence : sequences) num_rows += static_cast<int32_t>(sequence.size()) - first;
  return RowsOf(model, num_rows);
}

class WholeSequencesTest : public ::testing::TestWithParam<std::string> {};

TEST_P(WholeSequencesTest, TogetherIsAlone) {
  for (const char* const name : {"gemma3", "qwen2_padded_group", "llama2"}) {
    const std::string dir = GoldenModelDir(name);
    const std::vector<TokenId> ids = LoadGoldenModel(name).all_ids();
    ASSERT_GE(ids.size(), 12u);
    const Sequences sequences = {{ids.begin(), ids.begin() + 12},
                                 {ids.begin() + 3, ids.begin() + 10},
                                 {ids.begin() + 1, ids.begin() + 2}};
    TestBackend device(GetParam());
    TinyModel model(dir, device.backend.get());
    WholeSequences whole(device.backend.get(), model.layout(), 3, 12);
    ASSERT_TRUE(whole.allocated());
    const std::vector<float> together = Compute(&whole, &model.model(), sequences);
    std::vector<float> alone;
    for (const auto& sequence : sequences) {
      const std::vector<float> logits = model.AllLogits(sequence, 5);
      alone.insert(alone.end(), logits.begin(), logits.end());
    }
    EXPECT_TRUE(SameBits(together, alone)) << name;
  }
}

TEST_P(WholeSequencesTest, LaterTokensReadTheKeysOfEarlierSteps) {
  const std::vector<TokenId> ids = LoadGoldenModel("gemma3").all_ids();
  const Sequences whole_text = {{ids.begin(), ids.begin() + 12},
                                {ids.begin() + 2, ids.begin() + 9}};
  TestBackend device(GetParam());
  TinyModel model(GoldenModelDir("gemma3"), device.backend.get());
  WholeSequences whole(device.backend.get(), model.layout(), 2, 12);
  const std::vector<float> at_once = Compute(&whole, &model.model(), whole_text);
  Sequences starts = whole_text;
  for (auto& sequence : starts) sequence.resize(4);
  Compute(&whole, &model.model(), starts);
  const std::vector<float> rest = Compute(&whole, &model.model(), whole_text, 4);
  const auto vocab = static_cast<std::ptrdiff_t>(model.spec().vocab_size);
  std::vector<float> expected(at_once.begin() + 4 * vocab, at_once.begin() + 12 * vocab);
  expected.insert(expected.end(), at_once.begin() + 16 * vocab, at_once.end());
  EXPECT_TRUE(SameBits(rest, expected));
}

INSTANTIATE_TEST_SUITE_P(Backends, WholeSequencesTest, ::testing::ValuesIn(AllBackends()));

}  // namespace
}  // namespace tessera::testing
