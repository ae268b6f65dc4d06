// A cache of packed weights on disk, so that a second start need not quantise and pack the
// checkpoint again. The cache is a folder with one file, called an entry, for each packed weight.
// Several processes may share the folder.
//
// Entries are never stale, because an entry's name is the XXH3-128 of everything that determines
// its bytes: the content of the checkpoint's tensors (which is read in full each time; time stamps
// are not used), their types and shapes, the format, the backend's instruction set, and the
// executable, so that another build packs again. The tensors are hashed a second time after
// packing. If they have changed meanwhile, no entry is stored.
//
// An entry is written under a temporary name and then renamed. It has a checksum for each piece of
// its bytes; a torn or damaged entry counts as absent and is written again. The folder stays within
// its size limit: the least recently used entries are removed first, but never those that this
// process uses. A failed write only makes the next start slower. A user who may write to the folder
// can change the weights that are served, so the folder is created with access for its owner only.
//
// The loader owns the cache while it loads; one thread uses the cache.
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
  std::string dir;  // created if it does not exist
  // Limit of the bytes of all entries. If a model's packed weights exceed the limit, only its first
  // weights are stored.
  int64_t max_bytes = int64_t{32} << 30;
};

struct PackCacheStats {
  int64_t taken = 0;    // weights that came from the cache
  int64_t packed = 0;   // weights that had to be packed
  int64_t stored = 0;   // packed weights of which an entry was written
  int64_t damaged = 0;  // entries whose checksums were wrong
  int64_t evicted = 0;  // entries that were removed to keep the size limit
};

class PackCache final {
 public:
  // Opens the folder. An error says what to change about the folder.
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
  // Reads the entry into `packed`. Returns false if the entry does not exist or is damaged.
  bool Read(const std::string& key, ThreadTeam* team, char* packed, size_t bytes);
  void Write(const std::string& key, ThreadTeam* team, const PackedWeight& weight);
  // Removes entries until `bytes` more fit. Returns false if entries that this process uses would
  // have to be removed.
  bool MakeRoom(int64_t bytes);

  const PackCacheOptions options_;
  const std::string build_;  // hash of the executable
  std::set<std::string> used_;
  int64_t num_written_ = 0;
  PackCacheStats stats_;
};

}  // namespace tessera
