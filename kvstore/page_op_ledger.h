// The page ops of one device, from the moment that they are queued to the end of the step that runs
// them, and the pages that must not be handed out meanwhile. An op that is queued or
// launched holds a reference to its source. A destination belongs to the sequence that queued the
// op. When the sequence gives the destination back, a queued op to it is dropped. If a launched op
// writes it, the page is freed when the last step that writes it has retired.
//
// An op may have no source (kRopeShift changes its destination in place): `src` is kNullPage then.
// Owned by KvManager; engine thread only.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "kernels/base/types.h"
#include "kernels/step/batch.h"
#include "kvstore/page_pool.h"

namespace tessera {

class PageOpLedger final {
 public:
  explicit PageOpLedger(PagePool* pool) : pool_(pool) {}
  PageOpLedger(const PageOpLedger&) = delete;
  PageOpLedger& operator=(const PageOpLedger&) = delete;

  // Models are numbered in the order in which they are added.
  void AddModel() { queued_.emplace_back(); }

  // The next step of the model runs the op. The caller's reference to op.src passes to the ledger.
  // REQUIRES: op.dst is not shared.
  void Queue(int32_t model, const PageOp& op);
  // Hands out the model's queued ops to the step that is about to be launched.
  std::vector<PageOp> Take(int32_t model);
  // The step that took `ops` has retired. REQUIRES: Take handed them out; once.
  void Release(absl::Span<const PageOp> ops);
  // A sequence of the model gives up its reference to `page`.
  void GiveBack(int32_t model, PageId page);

  // Adds the references that the ledger holds to `refs`. CHECK-fails when its counts or the pages'
  // do not agree.
  void CountRefs(absl::flat_hash_map<PageId, int32_t>* refs) const;

 private:
  // A page that launched ops read or write.
  struct LaunchedPage {
    int32_t num_reads = 0;   // ops that read the page; each holds a reference
    int32_t num_writes = 0;  // ops that write the page
    // Its sequence gave the page back; the sequence's reference ends with the last write.
    bool given_back = false;
    bool idle() const { return num_reads == 0 && num_writes == 0; }
  };

  void DropQueued(int32_t model, PageId destination);
  void EndRead(PageId page);
  void EndWrite(PageId page);

  PagePool* const pool_;
  std::vector<std::vector<PageOp>> queued_;  // [models]
  absl::flat_hash_map<PageId, LaunchedPage> launched_;
};

}  // namespace tessera
