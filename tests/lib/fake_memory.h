// FakeMemory is the page pool of a fake device. A slab holds either KV cells, which record token,
// position and adapter, or bytes that were written to a page. A write replaces the old contents
// even if someone still needs them; the tests thereby find such errors.
//
// FakeRunner owns the memory. Not thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/step/batch.h"
#include "scheduler/step/engine_options.h"

namespace tessera::testing {

// The KV of one token. The default values are no token and no position.
struct FakeCell {
  TokenId token = -7;
  int32_t position = -7;
  uint64_t adapter = 0;  // HashOfBytes of the adapter's pages; 0: none
};

class FakeMemory final {
 public:
  // `models` must outlive the memory.
  FakeMemory(const std::vector<EngineModel>* models, int64_t num_slabs);

  // Returns a default cell if the cell was never written, or if the page now belongs to another
  // group, model or adapter.
  FakeCell Read(int32_t model, int32_t group, PageId page, int32_t token) const;
  void Write(int32_t model, int32_t group, PageId page, int32_t token, const FakeCell& cell);
  void WriteBytes(PageId page, const char* bytes, int64_t num_bytes);
  // Runs the batch's page ops in order.
  void ApplyPageOps(const BatchView& view);
  // Returns the hash of the pages of an adapter of the batch, or 0 if `adapter` is -1.
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

// Returns a hash that is never 0.
uint64_t HashOfBytes(const std::string& bytes);

}  // namespace tessera::testing
