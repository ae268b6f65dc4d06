// Runs whole sequences through a Model without an engine, for measurements and for quantising. Each
// sequence has pages of its own for every KV group, so a step may compute all of them at once. The
// caller owns the object and makes all calls on the model's rank thread.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/base/types.h"
#include "kernels/device/backend.h"
#include "kernels/model/model.h"
#include "kernels/step/batch.h"
#include "kernels/step/batch_arena.h"
#include "kernels/step/page_layout.h"
#include "kernels/step/step_result.h"

namespace tessera {

class WholeSequences final {
 public:
  // Allocates the pages of `num_sequences` sequences of at most `max_tokens` tokens. `layout` is
  // the model's layout; its slabs are replaced by the smallest ones. `backend` must outlive the
  // object.
  WholeSequences(Backend* backend, const PageLayout& layout, int32_t num_sequences,
                 int32_t max_tokens);

  // False: there is not enough memory for the pages, and no other call is allowed.
  bool allocated() const { return memory_ != nullptr; }

  // Begins a step of `model` that computes the tokens of each sequence from token `first` on, in
  // the order of the sequences. The keys of earlier tokens must have been computed by earlier
  // steps. The batch stays valid until the next call. REQUIRES: at most num_sequences sequences,
  // each with more than `first` and at most max_tokens tokens; the step has at most
  // model->limits().max_tokens tokens.
  void Begin(Model* model, const std::vector<std::vector<TokenId>>& sequences, int32_t first = 0);

  const PageLayout& layout() const { return layout_; }
  const PoolView& pool() const { return pool_; }
  // The page of a sequence's token in a KV group.
  PageId PageOf(int32_t sequence, int32_t group, int32_t token) const {
    return 1 + (sequence * layout_.num_groups() + group) * pages_per_group_ +
           token / layout_.page_tokens();
  }

 private:
  void AddTokens(const std::vector<std::vector<TokenId>>& sequences, int32_t first);
  void AddPages(const std::vector<std::vector<TokenId>>& sequences, int32_t first);

  PageLayout layout_;
  const int32_t num_sequences_;
  const int32_t max_tokens_;
  const int32_t pages_per_group_;
  std::unique_ptr<DeviceBuffer> memory_;
  PoolView pool_;
  StepBatch batch_;
  BatchArena arena_;
  StepResult result_;
};

}  // namespace tessera
