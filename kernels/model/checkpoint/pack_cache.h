// Packed weights on disk, so that a second start takes them instead of quantising and packing the
// checkpoint again. A folder of entries, one per packed weight, that several processes may share.
//
// Never stale: an entry's name is the XXH3-128 of all that decides its bytes: the content of the
// checkpoint's tensors (read in full each time, not a time stamp), their types and shapes, the
// format, the backend's instruction set, and the executable itself, so that another build packs
// once more. What is stored is hashed a second time after packing: a file that changes meanwhile is
// not stored under its former content.
//
// An entry is written beside its name and renamed, and has a checksum for each piece of it: one
// that is torn or damaged counts as absent and is written again. The folder stays within its bound:
// the entries that were used longest ago go first, those that this process uses do not. Failures to
// write cost nothing but the next start's time. Whoever may write to the folder decides what
// weights are served: it is created for this user only.
//
// One thread, the one that loads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/base/thread_team.h"
#include "kernels/device/backend.h"
#include "kernels/model/checkpoint/content_hash.h"
#include "kernels/model/checkpoint/stored_matrix.h"

namespace tessera {

struct PackCacheOptions {
  std::string dir;  // created when missing
  // Of all entries. Less than a model's packed weights: only the first of them are kept.
  int64_t max_bytes = int64_t{32} << 30;
};

struct PackCacheStats {
  int64_t taken = 0;    // weights that came from the cache
  int64_t packed = 0;   // weights that had to be packed
  int64_t stored = 0;   // of those, entries written
  int64_t damaged = 0;  // entries that were there but could not be believed
  int64_t evicted = 0;  // entries removed for the bound
};

class PackCache final {
 public:
  // Errors say what about the folder must change.
  static absl::StatusOr<std::unique_ptr<PackCache>> Open(const PackCacheOptions& options);

  // The weight that pack() makes of `parts`: from the cache, or from pack() and into the cache.
  // Null when pack() returns null. REQUIRES: pack() is Backend::Pack of these parts in this format.
  // `hashes` has or gets the hashes of the parts' tensors; null: they are used here only.
  std::unique_ptr<PackedWeight> Find(Backend* backend, const std::vector<StoredMatrix>& parts,
                                     const WeightFormat& format, bool interleave_gate,
                                     ThreadTeam* team,
                                     const std::function<std::unique_ptr<PackedWeight>()>& pack,
                                     TensorHashes* hashes = nullptr);

  const PackCacheStats& stats() const { return stats_; }

 private:
  PackCache(const PackCacheOptions& options, std::string build)
      : options_(options), build_(std::move(build)) {}

  // The entry's name, 32 hex digits.
  std::string KeyOf(const Backend& backend, const std::vector<StoredMatrix>& parts,
                    const WeightFormat& format, bool interleave_gate, ThreadTeam* team,
                    TensorHashes* hashes) const;
  std::string PathOf(const std::string& key) const;
  // False when there is no such entry, or it cannot be believed.
  bool Read(const std::string& key, ThreadTeam* team, char* packed, size_t bytes);
  void Write(const std::string& key, ThreadTeam* team, const PackedWeight& weight);
  // Removes what is in the way of `bytes` more. False when too much would have to go.
  bool MakeRoom(int64_t bytes);

  const PackCacheOptions options_;
  const std::string build_;  // hash of the executable
  std::set<std::string> used_;
  int64_t num_written_ = 0;
  PackCacheStats stats_;
};

}  // namespace tessera
