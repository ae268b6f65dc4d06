// TinyModel is a model on a backend whose pages and batches are laid out without an engine. Tests
// of the forward pass, the kernels and the engine compare their results with a TinyModel's.
// Single-threaded.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/base/thread_team.h"
#include "kernels/device/backend.h"
#include "kernels/model/lora/peft.h"
#include "kernels/model/model.h"

namespace tessera::testing {

// Returns "ref" and the names of CpuBackends().
std::vector<std::string> AllBackends();
// Returns CpuIsas().
std::vector<std::string> CpuBackends();

// A backend with its thread team. `name` is one of AllBackends().
struct TestBackend {
  std::unique_ptr<ThreadTeam> team;
  std::unique_ptr<Backend> backend;

  explicit TestBackend(const std::string& name, int num_threads = 1);
};

// The results of another implementation for a model, from DIR/golden.json and DIR/logits.f32.
struct Golden {
  std::vector<TokenId> prompt_ids;
  std::vector<TokenId> greedy_ids;
  std::vector<float> inv_freq;  // frequencies of the rotary embedding; empty if not recorded
  std::vector<float> logits;    // [positions, vocab], positions of prompt_ids, then greedy_ids

  std::vector<TokenId> all_ids() const;  // prompt_ids, then greedy_ids
};
Golden LoadGolden(const std::string& json_path, const std::string& logits_path);
// Returns the folder tests/golden/models/NAME.
std::string GoldenModelDir(const std::string& name);
Golden LoadGoldenModel(const std::string& name);
// Returns the names of the models in tests/golden/models, sorted.
std::vector<std::string> GoldenModels();

// The page pool of one or several models. Pages are allocated from both ends in turn, so that the
// pages of a sequence are neither adjacent nor ascending. All pages are filled with NaN at first.
class TinyPool {
 public:
  TinyPool(Backend* backend, int64_t slab_bytes, int64_t num_slabs);
  PageId Allocate(int32_t slabs_per_page);
  const PoolView& view() const { return view_; }

 private:
  std::unique_ptr<DeviceBuffer> memory_;
  PoolView view_;
  int64_t low_ = 0;
  int64_t high_ = 0;
  bool from_low_ = true;
};

struct TinyOptions {
  WeightDtype dtype = WeightDtype::kAuto;
  ActivationDtype activations = ActivationDtype::kAuto;
  DType kv_dtype = DType::kF32;
  int32_t page_tokens = 16;
  int32_t max_tokens = 512;
  int32_t max_num_seqs = 64;
  int64_t pool_bytes = int64_t{4} << 20;
  PackCache* pack_cache = nullptr;
  TinyPool* pool = nullptr;  // pool to share with other models; null: the model creates a pool
};

// The next tokens of a sequence in a step.
struct TinySegment {
  int sequence = 0;
  int num_tokens = 1;
  bool sample = false;     // whether the last token gets a sampler row, a copy of `row`
  bool from_slot = false;  // whether the last token is given as kLastSampledToken
  int num_runs = 1;        // number of runs into which the keys are split
  bool trim = false;       // whether runs of a windowed group start at the window's first page
  SamplerRow row = {};     // token_row and slot are filled in
  int adapter = -1;        // number that AddAdapter returned; -1: none
};

struct TinyStep {
  StepBatch batch;
  BatchArena arena;

  BatchView view() const { return {&batch, arena.base()}; }
};

class TinyModel {
 public:
  // Aborts with the reason if the folder does not load.
  TinyModel(const std::string& dir, Backend* backend, const TinyOptions& options = {});

  const ModelSpec& spec() const { return spec_; }
  Model& model() { return *model_; }
  const PageLayout& layout() const { return layout_; }
  const PoolView& pool() const { return pool_->view(); }

  // Adds a sequence with a slot of its own and returns the slot. Append adds tokens later.
  int AddSequence(std::vector<TokenId> tokens);
  void Append(int sequence, TokenId token) { sequences_[sequence].tokens.push_back(token); }
  const std::vector<TokenId>& tokens(int sequence) const { return sequences_[sequence].tokens; }
  int num_computed(int sequence) const { return sequences_[sequence].num_computed; }
  const std::vector<PageId>& pages(int sequence, int group) const {
    return sequences_[sequence].pages[group];
  }

  // Copies an adapter into pages of the pool and returns its number.
  int AddAdapter(const AdapterImage& image);

  // Builds a step and counts its tokens as computed.
  std::unique_ptr<TinyStep> Build(const std::vector<TinySegment>& segments,
                                  const std::vector<Tap>& taps = {},
                                  const std::vector<PageOp>& page_ops = {},
                                  const std::vector<SlotUpdate>& slot_updates = {});
  // Runs a step in layer ranges that end at `stops` (ascending, without num_layers). If `stops` is
  // empty, runs all layers at once.
  StepResult Run(const TinyStep& step, const std::vector<int>& stops = {});
  StepResult Step(const std::vector<TinySegment>& segments) { return Run(*Build(segments)); }

  // Returns the logits of all rows of the last step, [tokens, vocab].
  std::vector<float> LastLogits();

  // Returns the logits of all positions of a new sequence, computed in chunks of `chunk` tokens.
  std::vector<float> AllLogits(const std::vector<TokenId>& tokens, int chunk, int adapter = -1);
  // Returns the greedy continuation of a new sequence, chosen by the sampler.
  std::vector<TokenId> Greedy(const std::vector<TokenId>& prompt, int num_tokens);

  // Transfers the model to the caller, for a runner. Afterwards only AddSequence, Append and Build
  // may be called.
  std::unique_ptr<Model> ReleaseModel() { return std::move(model_); }

 private:
  struct TinySequence {
    std::vector<TokenId> tokens;
    int num_computed = 0;
    std::vector<std::vector<PageId>> pages;  // [group]
  };
  struct Lists;  // the arrays of a batch under construction

  void AddRuns(const TinySegment& segment, int group, Lists* lists) const;
  void AddSegment(const TinySegment& segment, Lists* lists);

  Backend* const backend_;
  ModelSpec spec_;
  const int32_t max_num_seqs_;
  std::unique_ptr<TinyPool> own_pool_;
  TinyPool* pool_ = nullptr;
  PageLayout layout_;
  std::vector<TinySequence> sequences_;
  std::vector<std::pair<AdapterLayout, std::vector<PageId>>> adapters_;
  int32_t num_step_tokens_ = 0;
  uint64_t next_step_id_ = 1;
  std::unique_ptr<Model> model_;
};

// Returns the largest absolute difference of elements. Returns infinity if the vectors differ in
// length or contain NaN.
float MaxDifference(const std::vector<float>& a, const std::vector<float>& b);
// Returns whether the vectors are bitwise equal.
bool SameBits(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace tessera::testing
