// Names for the content of tensors, and of a model's weights: XXH3-128 as 32 lower-case hex digits.
// A content is hashed in pieces, and its name is the hash of their hashes in order. A piece of a
// matrix is 16 rows, so that a backend's threads can hash rows while they pack them and have them
// in the cache. The name depends on neither the backend nor the number of threads.
//
// The name of weights covers all tensors that were read, each with its name, type, shape and bytes,
// in the order of the names: neither files nor folders nor the order of reading count. The list of
// tensors is hashed by XXH3-128 too, since a stronger hash above it would not make the whole
// stronger. So the name tells contents apart that differ by accident; whoever may write a model's
// folder is trusted.
//
// Only the loading thread calls these functions; Watch() says which threads call an observer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "kernels/base/thread_team.h"
#include "kernels/device/tensor.h"
#include "kernels/model/checkpoint/safetensors.h"

namespace tessera {

inline constexpr int64_t kHashPieceRows = 16;               // of a matrix
inline constexpr size_t kHashPieceBytes = size_t{1} << 20;  // of anything else

// The name of bytes that are no matrix.
std::string HashContent(const char* data, size_t bytes, ThreadTeam* team);
// The plain hash of a short text.
std::string HashText(absl::string_view text);

// The hashes of tensors during one load. The bytes of a tensor are hashed once.
class TensorHashes final {
 public:
  // `team` must outlive the object and be idle during the calls of Of().
  explicit TensorHashes(ThreadTeam* team);
  ~TensorHashes();
  TensorHashes(const TensorHashes&) = delete;
  TensorHashes& operator=(const TensorHashes&) = delete;

  // The hash of the tensor's bytes. Pieces that no observer has hashed are hashed here. REQUIRES:
  // `tensor` outlives the object.
  const std::string& Of(const StoredTensor& tensor);

  // Hashes the pieces whose first rows it is told of, on the threads that tell. Null when the
  // tensor is no matrix or Of() has its hash already. Valid until Of(tensor). REQUIRES: as Of().
  RowObserver* Watch(const StoredTensor& tensor);

 private:
  class Pieces;
  struct Entry {
    std::string hash;                // empty: not known yet
    std::unique_ptr<Pieces> pieces;  // while somebody watches
  };

  ThreadTeam* const team_;
  std::map<const StoredTensor*, Entry> entries_;
};

// The name of weights that consist of these tensors. REQUIRES: no pointer is null.
std::string HashWeights(const std::map<std::string, const StoredTensor*>& tensors,
                        TensorHashes* hashes);

}  // namespace tessera
