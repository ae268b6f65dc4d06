#include "kvstore/page_op_ledger.h"

#include <utility>

#include "kernels/base/log.h"

namespace tessera {

void PageOpLedger::Queue(int32_t model, const PageOp& op) {
  CHECK_NE(op.dst, kNullPage);
  CHECK(!pool_->IsShared(op.dst)) << "page " << op.dst;
  queued_[model].push_back(op);
}

std::vector<PageOp> PageOpLedger::Take(int32_t model) {
  std::vector<PageOp> ops = std::exchange(queued_[model], {});
  for (const PageOp& op : ops) {
    if (op.src != kNullPage) ++launched_[op.src].num_reads;
    ++launched_[op.dst].num_writes;
  }
  return ops;
}

void PageOpLedger::Release(absl::Span<const PageOp> ops) {
  for (const PageOp& op : ops) {
    if (op.src != kNullPage) EndRead(op.src);
    EndWrite(op.dst);
  }
}

void PageOpLedger::EndRead(PageId page) {
  const auto it = launched_.find(page);
  CHECK(it != launched_.end() && it->second.num_reads > 0) << "page " << page;
  --it->second.num_reads;
  if (it->second.idle()) launched_.erase(it);
  pool_->Unref(page);
}

void PageOpLedger::EndWrite(PageId page) {
  const auto it = launched_.find(page);
  CHECK(it != launched_.end() && it->second.num_writes > 0) << "page " << page;
  const bool is_last = --it->second.num_writes == 0;
  const bool frees = is_last && std::exchange(it->second.given_back, false);
  if (it->second.idle()) launched_.erase(it);
  if (frees) pool_->Unref(page);
}

void PageOpLedger::GiveBack(int32_t model, PageId page) {
  DropQueued(model, page);
  const auto it = launched_.find(page);
  if (it == launched_.end() || it->second.num_writes == 0) {
    pool_->Unref(page);
    return;
  }
  CHECK(!std::exchange(it->second.given_back, true)) << "page " << page;
}

// Drops the queued ops: when they would run, the page may belong to another sequence.
void PageOpLedger::DropQueued(int32_t model, PageId destination) {
  std::erase_if(queued_[model], [&](const PageOp& op) {
    if (op.dst != destination) return false;
    if (op.src != kNullPage) pool_->Unref(op.src);
    return true;
  });
}

void PageOpLedger::CountRefs(absl::flat_hash_map<PageId, int32_t>* refs) const {
  for (const std::vector<PageOp>& ops : queued_) {
    for (const PageOp& op : ops) {
      if (op.src != kNullPage) ++(*refs)[op.src];
      CHECK(!pool_->IsShared(op.dst)) << "page " << op.dst;
    }
  }
  for (const auto& [page, launched] : launched_) {
    CHECK(!launched.idle()) << "page " << page;
    CHECK(launched.num_writes > 0 || !launched.given_back) << "page " << page;
    CHECK(launched.num_writes == 0 || !pool_->IsShared(page)) << "page " << page;
    (*refs)[page] += launched.num_reads + (launched.given_back ? 1 : 0);
  }
}

}  // namespace tessera
