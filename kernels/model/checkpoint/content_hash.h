// Names for the content of tensors, and of a model's weights: XXH3-128 as 32 lower-case hex digits.
// A tensor is hashed in pieces, and its name is the hash of the pieces' hashes in order. A piece of
// a matrix is 16 rows, so that a backend's threads can hash rows that are in the cache because they
// pack them. The name depends on neither the backend nor the number of threads.
//
// The name of weights covers all tensors that were read, each with its name, type, shape and bytes,
// in the order of the names. The name does not depend on files, folders or the order of reading.
// The list of tensors is hashed by XXH3-128 too, because a stronger hash of weaker hashes is not
// stronger. XXH3 is not cryptographic: the name separates contents that differ by accident, and
// everyone who may write to a model's folder is trusted.
//
// Whoever hashes a piece of floats also looks for NaN and infinity in it, because its bytes are
// then in the cache.
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

inline constexpr int64_t kHashPieceRows = 16;               // rows of a matrix in a piece
inline constexpr size_t kHashPieceBytes = size_t{1} << 20;  // bytes of a piece of other data

// Returns the name of bytes that are not a matrix.
std::string HashContent(const char* data, size_t bytes, ThreadTeam* team);
// Returns the hash of a short text, which is not cut into pieces.
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

  // Whether the tensor has no NaN and no infinity; true for a tensor that is not of floats.
  // REQUIRES: Of(tensor) was called.
  bool IsFinite(const StoredTensor& tensor) const;

  // Returns an observer that hashes a piece when it is told that the piece's first row is read
  // next, on the thread that tells it. Returns null if the tensor is not a matrix or its hash is
  // known. The observer is valid until Of(tensor). REQUIRES: `tensor` outlives the object.
  RowObserver* Watch(const StoredTensor& tensor);

 private:
  class Pieces;
  struct Entry {
    std::string hash;                // empty: not known yet
    bool is_finite = true;           // valid if the hash is known
    std::unique_ptr<Pieces> pieces;  // set between Watch() and Of()
  };

  ThreadTeam* const team_;
  std::map<const StoredTensor*, Entry> entries_;
};

// The name of weights that consist of these tensors. REQUIRES: no pointer is null.
std::string HashWeights(const std::map<std::string, const StoredTensor*>& tensors,
                        TensorHashes* hashes);

}  // namespace tessera
