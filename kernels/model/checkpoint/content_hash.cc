#include "kernels/model/checkpoint/content_hash.h"

#include <xxh_x86dispatch.h>

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "kernels/base/finite.h"
#include "kernels/base/log.h"
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
  explicit Pieces(const StoredTensor& tensor)
      : tensor_(tensor),
        piece_bytes_(PieceBytes(tensor)),
        hashes_(static_cast<size_t>(CeilDiv(tensor.num_bytes, piece_bytes_))),
        states_(hashes_.size(), State::kUnknown) {}

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
                          if (states_[static_cast<size_t>(piece)] == State::kUnknown) {
                            HashPiece(piece);
                          }
                        }
                      });
    return Hex(XXH3_128bits(hashes_.data(), hashes_.size() * sizeof(XXH128_hash_t)));
  }

  // REQUIRES: Finish() was called.
  bool IsFinite() const {
    return std::find(states_.begin(), states_.end(), State::kNotFinite) == states_.end();
  }

 private:
  enum class State : uint8_t { kUnknown, kHashed, kNotFinite };

  void HashPiece(int64_t piece) {
    const int64_t offset = piece * piece_bytes_;
    const int64_t size = std::min(piece_bytes_, tensor_.num_bytes - offset);
    const char* const data = tensor_.data + offset;
    hashes_[static_cast<size_t>(piece)] = XXH3_128bits(data, static_cast<size_t>(size));
    const bool is_finite = !tensor_.dtype.has_value() ||
                           AllFinite(data, size / DTypeBytes(*tensor_.dtype), *tensor_.dtype);
    states_[static_cast<size_t>(piece)] = is_finite ? State::kHashed : State::kNotFinite;
  }

  const StoredTensor& tensor_;
  const int64_t piece_bytes_;
  std::vector<XXH128_hash_t> hashes_;
  std::vector<State> states_;
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
  if (entry.pieces == nullptr) entry.pieces = std::make_unique<Pieces>(tensor);
  entry.hash = entry.pieces->Finish(team_);
  entry.is_finite = entry.pieces->IsFinite();
  entry.pieces.reset();
  return entry.hash;
}

bool TensorHashes::IsFinite(const StoredTensor& tensor) const {
  const auto it = entries_.find(&tensor);
  CHECK(it != entries_.end() && !it->second.hash.empty()) << " the tensor was not hashed";
  return it->second.is_finite;
}

RowObserver* TensorHashes::Watch(const StoredTensor& tensor) {
  Entry& entry = entries_[&tensor];
  if (!entry.hash.empty() || !IsMatrix(tensor)) return nullptr;
  entry.pieces = std::make_unique<Pieces>(tensor);
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
