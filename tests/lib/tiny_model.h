// A model on a backend, with pages and batches laid out by hand: what tests of the forward, of the
// kernels below it and of the engine above it compare with. Single-threaded.
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

// "ref" and all that this machine has of CpuIsas().
std::vector<std::string> AllBackends();
std::vector<std::string> CpuBackends();

// A backend with the threads it runs on. `name` is one of AllBackends().
struct TestBackend {
  std::unique_ptr<ThreadTeam> team;
  std::unique_ptr<Backend> backend;

  explicit TestBackend(const std::string& name, int num_threads = 1);
};

// What another implementation computes on a model: DIR/golden.json and DIR/logits.f32.
struct Golden {
  std::vector<TokenId> prompt_ids;
  std::vector<TokenId> greedy_ids;
  std::vector<float> inv_freq;  // of the rotary embedding; empty when not recorded
  std::vector<float> logits;    // [positions, vocab], of the prompt and then greedy_ids

  std::vector<TokenId> all_ids() const;  // prompt_ids and greedy_ids
};
Golden LoadGolden(const std::string& json_path, const std::string& logits_path);
// tests/golden/models/NAME.
std::string GoldenModelDir(const std::string& name);
Golden LoadGoldenModel(const std::string& name);
// Names of the models in tests/golden/models, sorted.
std::vector<std::string> GoldenModels();

// Page memory for one or several models. Pages are handed out from both ends, so that a sequence's
// pages are neither adjacent nor ascending, and start out filled with NaN.
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
  DType kv_dtype = DType::kF32;
  int32_t page_tokens = 16;
  int32_t max_tokens = 512;
  int32_t max_num_seqs = 64;
  int64_t pool_bytes = int64_t{16} << 20;
  PackCache* pack_cache = nullptr;
  TinyPool* pool = nullptr;  // shared with other models; null: one of its own
};

// The next tokens of a sequence in a step.
struct TinySegment {
  int sequence = 0;
  int num_tokens = 1;
  bool sample = false;     // a sampler row for the last token, as `row` says
  bool from_slot = false;  // the last token is given as kLastSampledToken
  int num_runs = 1;        // the keys are split into this many runs, anywhere
  bool trim = false;       // runs of a windowed group begin with the window's first page
  SamplerRow row = {};     // token_row and slot are filled in
  int adapter = -1;        // of AddAdapter
};

struct TinyStep {
  StepBatch batch;
  BatchArena arena;

  BatchView view() const { return {&batch, arena.base()}; }
};

class TinyModel {
 public:
  // Aborts with the reason when the folder does not load.
  TinyModel(const std::string& dir, Backend* backend, const TinyOptions& options = {});

  const ModelSpec& spec() const { return spec_; }
  Model& model() { return *model_; }
  const PageLayout& layout() const { return layout_; }
  const PoolView& pool() const { return pool_->view(); }

  // A sequence in a slot of its own (the returned number). Tokens may be added later.
  int AddSequence(std::vector<TokenId> tokens);
  void Append(int sequence, TokenId token) { sequences_[sequence].tokens.push_back(token); }
  const std::vector<TokenId>& tokens(int sequence) const { return sequences_[sequence].tokens; }
  int num_computed(int sequence) const { return sequences_[sequence].num_computed; }
  const std::vector<PageId>& pages(int sequence, int group) const {
    return sequences_[sequence].pages[group];
  }

  // Copies an adapter into pages of the pool; returns its number.
  int AddAdapter(const AdapterImage& image);

  // Lays out a step and counts its tokens as computed.
  std::unique_ptr<TinyStep> Build(const std::vector<TinySegment>& segments,
                                  const std::vector<Tap>& taps = {},
                                  const std::vector<PageOp>& page_ops = {},
                                  const std::vector<SlotUpdate>& slot_updates = {});
  // In layer ranges that end at `stops` (ascending, without num_layers); empty: whole.
  StepResult Run(const TinyStep& step, const std::vector<int>& stops = {});
  StepResult Step(const std::vector<TinySegment>& segments) { return Run(*Build(segments)); }

  // Of all rows of the last step, [tokens, vocab].
  std::vector<float> LastLogits();

  // Logits of all positions of a new sequence, computed `chunk` tokens at a time.
  std::vector<float> AllLogits(const std::vector<TokenId>& tokens, int chunk, int adapter = -1);
  // Greedy continuation of a new sequence by the sampler.
  std::vector<TokenId> Greedy(const std::vector<TokenId>& prompt, int num_tokens);

  // Gives the model away (to a runner); only AddSequence, Append and Build may be used afterwards.
  std::unique_ptr<Model> ReleaseModel() { return std::move(model_); }

 private:
  struct TinySequence {
    std::vector<TokenId> tokens;
    int num_computed = 0;
    std::vector<std::vector<PageId>> pages;  // [group]
  };
  struct Lists;  // of a batch under construction

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

// The largest difference of two equally long vectors; infinity when they are not, or hold NaN.
float MaxDifference(const std::vector<float>& a, const std::vector<float>& b);
// Bitwise.
bool SameBits(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace tessera::testing
