// The state of an adapter as the engine reports it and as a list shows it.
//
// An AdapterStatus belongs to a version of the registry (adapter_registry.h). The engine writes it;
// any thread reads it.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

namespace tessera {

enum class AdapterResidency : int32_t { kDisk = 0, kHost = 1, kPool = 2 };

// What the engine reports of a version; atomics, so that it never waits for who lists them.
struct AdapterStatus {
  std::atomic<AdapterResidency> residency{AdapterResidency::kDisk};
  std::atomic<bool> pinned{false};
  std::atomic<int32_t> rank{0};
  std::atomic<int64_t> bytes{0};
  std::atomic<int64_t> last_use_us{0};
  std::atomic<int64_t> num_running{0};
};

struct AdapterListing {
  std::string name;
  std::string revision;
  int32_t model = 0;
  AdapterResidency residency = AdapterResidency::kDisk;
  bool pinned = false;
  int32_t rank = 0;         // the largest; 0 until it was loaded once
  int64_t bytes = 0;        // in the pool; 0 until it was loaded once
  int64_t last_use_us = 0;  // Clock; 0: never
  int64_t num_running = 0;  // sequences
};

}  // namespace tessera
