// Adapters for fake engines: names in a registry, contents that FakeRunner's texts depend on, and a
// loader without threads that reads and copies when the test says so.
//
// Owned by a test, used on its thread.
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

// Reports go to `events`, as those of the threads of NewAdapterLoader do.
class FakeAdapterLoader final : public AdapterLoader {
 public:
  FakeAdapterLoader(Runner* runner, AdapterLoaderEvents events)
      : runner_(runner), events_(std::move(events)) {}

  void Read(AdapterId id) override { reads_.push_back(id); }
  void Copy(AdapterId id, const AdapterImage* image, std::vector<PageId> pages) override;

  // A loader so fast that pages are written as soon as Copy is called, before the caller goes on.
  // It still reports when it is told to.
  void set_writes_at_once(bool value) { writes_at_once_ = value; }

  bool is_reading() const { return !reads_.empty(); }
  bool is_copying() const { return !copies_.empty(); }
  // The oldest read ends, with an image or an error. REQUIRES: is_reading().
  void FinishRead(absl::StatusOr<AdapterImage> image);
  AdapterId next_read() const { return reads_.front(); }
  // The oldest copy's pages are written, and it is reported. REQUIRES: is_copying().
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

// Adapters of one model, registered from a folder that goes with this object.
class FakeAdapters final {
 public:
  // Each of `num_pages` pages of the model.
  FakeAdapters(const EngineModel& model, const std::vector<int32_t>& num_pages);
  ~FakeAdapters();

  AdapterRegistry* registry() { return &registry_; }
  const ResolvedAdapter& resolved(size_t adapter) const { return resolved_.at(adapter); }
  AdapterId id(size_t adapter) const { return resolved(adapter).id; }
  // What a loader reads, and what it is to a text.
  AdapterImage Image(AdapterId id) const;
  FakeVariant Variant(size_t adapter) const;

 private:
  const EngineModel model_;
  const std::vector<int32_t> num_pages_;
  std::string dir_;
  AdapterRegistry registry_;
  std::vector<ResolvedAdapter> resolved_;
};

}  // namespace tessera::testing
