// OperatorLoads keeps the operators' calls (Control.LoadAdapter) that wait until an adapter is in
// the page pool. Like a sequence, a call has a need (residency.h): the version of the adapter. The
// needs of the calls are loaded in the order of the calls, and only into pages that running
// sequences do not use.
//
// Owned by the engine core; engine thread only.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "scheduler/residency/residency.h"

namespace tessera {

class OperatorLoads final {
 public:
  // `residency` outlives this object.
  explicit OperatorLoads(Residency* residency) : residency_(residency) {}

  void Add(NeedId need, AdapterWait wait);
  // Reports that the state of a need has changed. If the need could not be loaded, its waits are
  // answered with the error; otherwise the next Ask asks Residency for the need again.
  void OnChange(const NeedChange& change);
  // Asks Residency for each need that is not being loaded, drops waits that were given up, and
  // answers the waits whose need is in the pool. The arguments are those of Residency::Want.
  void Ask(int64_t reserve_slabs, bool alone);
  // Answers all waits with `status`.
  void EndAll(const absl::Status& status);

 private:
  // Returns whether the need must be asked for again in a later round.
  bool AskFor(NeedId need, int64_t reserve_slabs, bool alone);
  void End(NeedId need, const absl::Status& status);

  Residency* const residency_;
  absl::flat_hash_map<NeedId, std::vector<AdapterWait>> waits_;
  std::deque<NeedId> to_ask_;  // needs in waits_ that are not being loaded, each once
};

}  // namespace tessera
