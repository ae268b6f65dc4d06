// What lies in the page pool of a fake device: per slab, either cells of KV, which know token,
// position and adapter, or bytes that were written to a page. Whatever is written takes the place
// of what lay there, whoever still counts on it.
//
// Owned by FakeRunner. Not thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/step/batch.h"
#include "scheduler/step/engine_options.h"

namespace tessera::testing {

// As new it is of no token and no position.
struct FakeCell {
  TokenId token = -7;
  int32_t position = -7;
  uint64_t adapter = 0;  // HashOfBytes of its pages; 0: none
};

class FakeMemory final {
 public:
  // `models` outlives it.
  FakeMemory(const std::vector<EngineModel>* models, int64_t num_slabs);

  // A cell that was never written, or lies in a page of another group, model or adapter by now, is
  // as new.
  FakeCell Read(int32_t model, int32_t group, PageId page, int32_t token) const;
  void Write(int32_t model, int32_t group, PageId page, int32_t token, const FakeCell& cell);
  void WriteBytes(PageId page, const char* bytes, int64_t num_bytes);
  // Runs the batch's page ops in order.
  void ApplyPageOps(const BatchView& view);
  // Of the pages of the batch's adapter; 0: `adapter` is -1.
  uint64_t HashOfAdapter(const BatchView& view, int32_t adapter) const;

 private:
  struct Slab {
    int32_t model = -1;
    int32_t group = -1;
    std::vector<FakeCell> cells;
    std::string bytes;
  };
  struct Place {
    int64_t slab = 0;
    int32_t cell = 0;
  };

  int32_t TokensPerSlab(int32_t model) const;
  Place PlaceOf(int32_t model, PageId page, int32_t token) const;
  void ApplyPageOp(const BatchView& view, const PageOp& op);

  const std::vector<EngineModel>& models_;
  const int64_t slab_bytes_;
  std::vector<Slab> slabs_;
};

// Never 0.
uint64_t HashOfBytes(const std::string& bytes);

}  // namespace tessera::testing
