// Adapters for engines with a FakeRunner: names in a registry, contents on which the tokens of
// FakeRunner depend, and a loader without threads that ends a read or a copy when the test calls
// it. A test owns the objects and uses them on its own thread.
#pragma once

#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "kernels/model/runner.h"
#include "scheduler/residency/adapters/adapter_loader.h"
#include "scheduler/step/engine_options.h"
#include "tests/lib/fake_runner.h"

namespace tessera::testing {

// An adapter loader that reports to `events`, like the threads of NewAdapterLoader.
class FakeAdapterLoader final : public AdapterLoader {
 public:
  FakeAdapterLoader(Runner* runner, AdapterLoaderEvents events)
      : runner_(runner), events_(std::move(events)) {}

  void Read(AdapterId id) override { reads_.push_back(id); }
  void Copy(AdapterId id, const AdapterImage* image, std::vector<PageId> pages) override;

  // If true, Copy writes the pages before it returns. The copy is still reported by FinishCopy.
  void set_writes_at_once(bool value) { writes_at_once_ = value; }

  bool is_reading() const { return !reads_.empty(); }
  bool is_copying() const { return !copies_.empty(); }
  // Ends the oldest read with an image or an error. REQUIRES: is_reading().
  void FinishRead(absl::StatusOr<AdapterImage> image);
  AdapterId next_read() const { return reads_.front(); }
  // Writes the pages of the oldest copy and reports it. REQUIRES: is_copying().
  void FinishCopy();

 private:
  struct PendingCopy {
    AdapterId id = kNoAdapter;
    const AdapterImage* image = nullptr;
    std::vector<PageId> pages;
    bool written = false;
  };

  void WritePages(PendingCopy* copy);

  Runner* const runner_;
  const AdapterLoaderEvents events_;
  bool writes_at_once_ = false;
  std::deque<AdapterId> reads_;
  std::deque<PendingCopy> copies_;
};

// Adapters of one model, registered from a folder that the destructor deletes.
class FakeAdapters final {
 public:
  // Adapter i has num_pages[i] pages of the model.
  FakeAdapters(const EngineModel& model, const std::vector<int32_t>& num_pages);
  ~FakeAdapters();

  AdapterRegistry* registry() { return &registry_; }
  const ResolvedAdapter& resolved(size_t adapter) const { return resolved_.at(adapter); }
  AdapterId id(size_t adapter) const { return resolved(adapter).id; }
  // Returns the image that a loader would read.
  AdapterImage Image(AdapterId id) const;
  // Returns the adapter's contribution to ExpectedTokens.
  FakeVariant Variant(size_t adapter) const;

 private:
  const EngineModel model_;
  const std::vector<int32_t> num_pages_;
  std::string dir_;
  AdapterRegistry registry_;
  std::vector<ResolvedAdapter> resolved_;
};

}  // namespace tessera::testing
