// The threads that read adapters from disk and copy them into the page pool while steps run. The
// threads call the functions of AdapterLoaderEvents. Owned by the engine core, which calls the
// loader.
#pragma once

#include <functional>
#include <memory>

#include "kernels/model/runner.h"
#include "scheduler/residency/adapters/adapter_registry.h"
#include "scheduler/residency/adapters/adapter_store.h"

namespace tessera {

struct AdapterLoaderEvents {
  std::function<void(AdapterId id, absl::StatusOr<AdapterImage> image, int64_t read_us)> on_read;
  std::function<void(AdapterId id)> on_copied;
};

// `registry`, `runner` and the objects that `events` use outlive the loader. The destructor waits
// for running jobs and drops jobs that have not started.
std::unique_ptr<AdapterLoader> NewAdapterLoader(AdapterRegistry* registry, Runner* runner,
                                                int num_threads, AdapterLoaderEvents events);

}  // namespace tessera
