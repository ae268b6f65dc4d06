#include "tests/lib/fake_memory.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace tessera::testing {
namespace {

constexpr uint64_t kNoBytes = 0xcbf29ce484222325ull;

// Continues an FNV-1a hash.
uint64_t FoldBytes(uint64_t hash, const std::string& bytes) {
  for (const char byte : bytes) {
    hash ^= static_cast<unsigned char>(byte);
    hash *= 0x100000001b3ull;
  }
  return hash;
}

// Returns the number of pages of an adapter. A batch does not state this number, so it is computed
// from the places of the adapter's matrices.
int32_t NumPages(const LoraMatrices& matrices, int64_t page_bytes) {
  int32_t num_pages = 0;
  for (const TileRun& run : {matrices.a, matrices.b}) {
    if (run.num_tiles == 0) continue;
    num_pages = std::max(num_pages, PlaceOfTile(run, page_bytes, run.num_tiles - 1).page + 1);
  }
  return num_pages;
}

}  // namespace

uint64_t HashOfBytes(const std::string& bytes) { return FoldBytes(kNoBytes, bytes) | 1; }

FakeMemory::FakeMemory(const std::vector<EngineModel>* models, int64_t num_slabs)
    : models_(*models),
      slab_bytes_(models->at(0).layout.slab_bytes),
      slabs_(static_cast<size_t>(num_slabs)) {}

int32_t FakeMemory::TokensPerSlab(int32_t model) const {
  const PageLayout& layout = models_.at(model).layout;
  return CeilDiv(layout.page_tokens(), layout.slabs_per_page);
}

FakeMemory::Place FakeMemory::PlaceOf(int32_t model, PageId page, int32_t token) const {
  const int32_t per_slab = TokensPerSlab(model);
  EXPECT_LT(token, models_.at(model).layout.page_tokens());
  return {page + token / per_slab, token % per_slab};
}

FakeCell FakeMemory::Read(int32_t model, int32_t group, PageId page, int32_t token) const {
  const Place place = PlaceOf(model, page, token);
  const Slab& slab = slabs_.at(place.slab);
  if (slab.model != model || slab.group != group) return {};
  return slab.cells.at(place.cell);
}

void FakeMemory::Write(int32_t model, int32_t group, PageId page, int32_t token,
                       const FakeCell& cell) {
  const Place place = PlaceOf(model, page, token);
  Slab& slab = slabs_.at(place.slab);
  if (slab.model != model || slab.group != group) {
    slab = {model, group, std::vector<FakeCell>(TokensPerSlab(model)), ""};
  }
  slab.cells.at(place.cell) = cell;
}

void FakeMemory::WriteBytes(PageId page, const char* bytes, int64_t num_bytes) {
  for (int64_t at = 0; at < num_bytes; at += slab_bytes_) {
    const auto count = static_cast<size_t>(std::min(slab_bytes_, num_bytes - at));
    slabs_.at(page + at / slab_bytes_) = {-1, -1, {}, std::string(bytes + at, count)};
  }
}

void FakeMemory::ApplyPageOps(const BatchView& view) {
  const PageOp* const ops = view.data(view.batch->page_ops);
  for (uint32_t i = 0; i < view.batch->page_ops.count; ++i) ApplyPageOp(view, ops[i]);
}

void FakeMemory::ApplyPageOp(const BatchView& view, const PageOp& op) {
  const int32_t model = view.batch->model;
  const GroupLayout& group = models_.at(model).layout.groups.at(op.group);
  // A fake cell represents all layers and heads of its group, so an op must cover all of them.
  EXPECT_EQ(op.layer_begin, 0);
  EXPECT_EQ(op.layer_end, group.num_layers) << "group " << op.group;
  EXPECT_EQ(op.index_stride, 0);
  EXPECT_NE(op.dst, kNullPage);
  const int32_t* const indices = view.data(view.batch->indices) + op.index_begin;
  // Reads all cells before it writes the first, because src may be dst.
  std::vector<FakeCell> cells;
  for (int32_t i = 0; i < op.num_tokens; ++i) {
    switch (op.kind) {
      case PageOpKind::kCopy:
        cells.push_back(Read(model, op.group, op.src, op.src_token + i));
        break;
      case PageOpKind::kRopeShift:
        cells.push_back(Read(model, op.group, op.dst, op.dst_token + i));
        cells.back().position += op.delta;
        break;
      case PageOpKind::kGather:
        cells.push_back(Read(model, op.group, op.src, indices[i]));
        break;
    }
  }
  for (int32_t i = 0; i < op.num_tokens; ++i) {
    Write(model, op.group, op.dst, op.dst_token + i, cells[i]);
  }
}

uint64_t FakeMemory::HashOfAdapter(const BatchView& view, int32_t adapter) const {
  if (adapter < 0) return 0;
  const EngineModel& model = models_.at(view.batch->model);
  const BatchAdapter& of = view.data(view.batch->adapters)[adapter];
  const LoraMatrices* const matrices = view.data(view.batch->lora_matrices) + of.matrix_begin;
  int32_t num_pages = 0;
  for (int32_t m = 0; m < model.num_layers * kNumLoraTargets; ++m) {
    num_pages = std::max(num_pages, NumPages(matrices[m], model.layout.page_bytes()));
  }
  uint64_t hash = kNoBytes;
  for (int32_t p = 0; p < num_pages; ++p) {
    const PageId page = view.pages()[of.page_begin + p];
    for (int32_t s = 0; s < model.layout.slabs_per_page; ++s) {
      hash = FoldBytes(hash, slabs_.at(page + s).bytes);
    }
  }
  return hash | 1;
}

}  // namespace tessera::testing
