// Names for the content of tensors, and of a model's weights: XXH3-128 as 32 lower-case hex digits.
// A content is hashed in pieces by a team of threads; the name does not depend on their number.
//
// The name of weights covers all tensors that were read, each with its name, type, shape and bytes,
// in the order of the names: neither files nor folders nor the order of reading count. The list of
// tensors is hashed by XXH3-128 too, since a stronger hash above it would not make the whole
// stronger. So the name tells contents apart that differ by accident; whoever may write a model's
// folder is trusted.
//
// Only the loading thread calls these functions.
#pragma once

#include <cstddef>
#include <map>
#include <string>

#include "absl/strings/string_view.h"
#include "kernels/base/thread_team.h"
#include "kernels/model/checkpoint/safetensors.h"

namespace tessera {

inline constexpr size_t kHashPieceBytes = size_t{1} << 20;  // what one thread hashes at a time

// The hash of the pieces' hashes.
std::string HashContent(const char* data, size_t bytes, ThreadTeam* team);
// The plain hash of a short text.
std::string HashText(absl::string_view text);

// The hashes of tensors during one load. The bytes of a tensor are hashed once.
class TensorHashes final {
 public:
  // `team` must outlive the object and be idle during the calls.
  explicit TensorHashes(ThreadTeam* team) : team_(team) {}

  // Of the bytes. REQUIRES: `tensor` outlives the object.
  const std::string& Of(const StoredTensor& tensor);

 private:
  ThreadTeam* const team_;
  std::map<const StoredTensor*, std::string> hashes_;
};

// The name of weights that consist of these tensors. REQUIRES: no pointer is null.
std::string HashWeights(const std::map<std::string, const StoredTensor*>& tensors,
                        TensorHashes* hashes);

}  // namespace tessera
