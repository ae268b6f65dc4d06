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

constexpr int64_t kTaskBytes = int64_t{1} << 20;  // bytes that one thread hashes at a time

std::string Hex(const XXH128_hash_t& hash) {
  return absl::StrFormat("%016x%016x", hash.high64, hash.low64);
}

bool IsMatrix(const StoredTensor& tensor) {
  return tensor.shape.size() == 2 && tensor.num_bytes > 0;
}

int64_t PieceBytes(const StoredTensor& tensor) {
  return IsMatrix(tensor) ? tensor.num_bytes / tensor.shape[0] * kHashPieceRows
                          : static_cast<int64_t>(kHashPieceBytes);
}

}  // namespace

class TensorHashes::Pieces final : public RowObserver {
 public:
  Pieces(const char* data, int64_t bytes, int64_t piece_bytes)
      : data_(data),
        bytes_(bytes),
        piece_bytes_(piece_bytes),
        hashes_(static_cast<size_t>(CeilDiv(bytes, piece_bytes))),
        done_(hashes_.size()) {}

  // The thread that is about to read a piece's first row hashes the whole piece. No other thread
  // hashes that piece, because no row is named twice.
  void WillRead(int64_t begin, int64_t end) override {
    for (int64_t row = RoundUp(begin, kHashPieceRows); row < end; row += kHashPieceRows) {
      HashPiece(row / kHashPieceRows);
    }
  }

  std::string Finish(ThreadTeam* team) {
    const int64_t num_pieces = static_cast<int64_t>(hashes_.size());
    team->ParallelFor(num_pieces, std::max<int64_t>(kTaskBytes / piece_bytes_, 1),
                      [this](int64_t begin, int64_t end, int /*member*/) {
                        for (int64_t piece = begin; piece < end; ++piece) {
                          if (done_[static_cast<size_t>(piece)] == 0) HashPiece(piece);
                        }
                      });
    return Hex(XXH3_128bits(hashes_.data(), hashes_.size() * sizeof(XXH128_hash_t)));
  }

 private:
  void HashPiece(int64_t piece) {
    const int64_t offset = piece * piece_bytes_;
    const int64_t size = std::min(piece_bytes_, bytes_ - offset);
    hashes_[static_cast<size_t>(piece)] = XXH3_128bits(data_ + offset, static_cast<size_t>(size));
    done_[static_cast<size_t>(piece)] = 1;
  }

  const char* const data_;
  const int64_t bytes_;
  const int64_t piece_bytes_;
  std::vector<XXH128_hash_t> hashes_;
  std::vector<uint8_t> done_;
};

std::string HashContent(const char* data, size_t bytes, ThreadTeam* team) {
  StoredTensor tensor;
  tensor.data = data;
  tensor.num_bytes = static_cast<int64_t>(bytes);
  return TensorHashes(team).Of(tensor);
}

std::string HashText(absl::string_view text) { return Hex(XXH3_128bits(text.data(), text.size())); }

TensorHashes::TensorHashes(ThreadTeam* team) : team_(team) {}
TensorHashes::~TensorHashes() = default;

const std::string& TensorHashes::Of(const StoredTensor& tensor) {
  Entry& entry = entries_[&tensor];
  if (!entry.hash.empty()) return entry.hash;
  if (entry.pieces == nullptr) {
    entry.pieces = std::make_unique<Pieces>(tensor.data, tensor.num_bytes, PieceBytes(tensor));
  }
  entry.hash = entry.pieces->Finish(team_);
  entry.pieces.reset();
  return entry.hash;
}

RowObserver* TensorHashes::Watch(const StoredTensor& tensor) {
  Entry& entry = entries_[&tensor];
  if (!entry.hash.empty() || !IsMatrix(tensor)) return nullptr;
  entry.pieces = std::make_unique<Pieces>(tensor.data, tensor.num_bytes, PieceBytes(tensor));
  return entry.pieces.get();
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
