// The state of an adapter: as the engine reports it, and as the registry lists it.
//
// Each version of the registry (adapter_registry.h) owns an AdapterStatus. The engine thread writes
// it, except `retired`; any thread reads it.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

namespace tessera {

enum class AdapterResidency : int32_t { kDisk = 0, kHost = 1, kPool = 2 };

// What the registry found when it last examined the files of an adapter.
enum class AdapterFilesState : int32_t {
  kPresent,  // the files are there, and their headers fit the model
  kMissing,
  kInvalid,  // the files cannot be loaded: half-written, damaged, or of another model
};

// The engine's report on a version. The members are atomic, so the engine never waits for a reader.
struct AdapterStatus {
  std::atomic<AdapterResidency> residency{AdapterResidency::kDisk};
  std::atomic<bool> pinned{false};
  std::atomic<int32_t> rank{0};
  std::atomic<int64_t> bytes{0};
  std::atomic<int64_t> last_use_us{0};
  std::atomic<int64_t> num_running{0};
  // Set by the registry: an adapter of the version was unregistered. The version leaves the memory
  // when no sequence uses it or waits for it.
  std::atomic<bool> retired{false};
};

struct AdapterListing {
  std::string name;
  std::string revision;
  int32_t model = 0;
  bool is_blend = false;
  AdapterResidency residency = AdapterResidency::kDisk;
  bool pinned = false;
  int32_t rank = 0;         // largest rank of a linear
  int64_t bytes = 0;        // bytes of the adapter's pages in the pool
  int64_t last_use_us = 0;  // clock time of the last use; 0: no use yet
  int64_t num_running = 0;  // number of running sequences that use the adapter
  AdapterFilesState files = AdapterFilesState::kPresent;
  std::string files_error;  // what is wrong with the files; empty: nothing
};

}  // namespace tessera
