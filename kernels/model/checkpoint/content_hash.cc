#include "kernels/model/checkpoint/content_hash.h"

#include <xxh_x86dispatch.h>

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "kernels/base/types.h"

namespace tessera {
namespace {

std::string Hex(const XXH128_hash_t& hash) {
  return absl::StrFormat("%016x%016x", hash.high64, hash.low64);
}

}  // namespace

std::string HashContent(const char* data, size_t bytes, ThreadTeam* team) {
  std::vector<XXH128_hash_t> pieces(CeilDiv(bytes, kHashPieceBytes));
  team->ParallelFor(
      static_cast<int64_t>(pieces.size()), 1, [&](int64_t begin, int64_t end, int /*member*/) {
        for (int64_t piece = begin; piece < end; ++piece) {
          const size_t offset = static_cast<size_t>(piece) * kHashPieceBytes;
          pieces[piece] = XXH3_128bits(data + offset, std::min(kHashPieceBytes, bytes - offset));
        }
      });
  return Hex(XXH3_128bits(pieces.data(), pieces.size() * sizeof(XXH128_hash_t)));
}

std::string HashText(absl::string_view text) { return Hex(XXH3_128bits(text.data(), text.size())); }

const std::string& TensorHashes::Of(const StoredTensor& tensor) {
  std::string& hash = hashes_[&tensor];
  if (hash.empty()) {
    hash = HashContent(tensor.data, static_cast<size_t>(tensor.num_bytes), team_);
  }
  return hash;
}

std::string HashWeights(const std::map<std::string, const StoredTensor*>& tensors,
                        TensorHashes* hashes) {
  std::string record;
  for (const auto& [name, tensor] : tensors) {
    absl::StrAppend(&record, name.size(), ":", name, " ", tensor->dtype_name, " [",
                    absl::StrJoin(tensor->shape, ","), "] ", hashes->Of(*tensor), "\n");
  }
  return HashText(record);
}

}  // namespace tessera
