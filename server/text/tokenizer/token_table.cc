#include "server/text/tokenizer/token_table.h"

#include <utility>

namespace tessera {

absl::Status TokenTable::Add(int64_t id, std::string content, bool in_model) {
  if (id < 0 || id > kMaxTokenId) {
    return absl::InvalidArgumentError("token '" + content + "' has the id " + std::to_string(id) +
                                      "; ids from 0 to " + std::to_string(kMaxTokenId) +
                                      " are supported");
  }
  if (id >= size()) entries_.resize(id + 1);
  Entry& entry = entries_[id];
  if (entry.present) {
    return absl::InvalidArgumentError("tokens '" + entry.content + "' and '" + content +
                                      "' have the same id " + std::to_string(id));
  }
  const auto [it, inserted] = ids_.emplace(content, static_cast<TokenId>(id));
  if (!inserted) {
    return absl::InvalidArgumentError("token '" + content + "' has two ids, " +
                                      std::to_string(it->second) + " and " + std::to_string(id));
  }
  entry.content = std::move(content);
  entry.present = true;
  entry.in_model = in_model;
  return absl::OkStatus();
}

void TokenTable::SetPiece(TokenId id, std::string piece, bool is_byte) {
  Entry& entry = entries_[id];
  entry.byte = is_byte;
  entry.has_piece = piece != entry.content;
  if (entry.has_piece) entry.piece = std::move(piece);
}

std::optional<TokenId> TokenTable::Find(std::string_view content) const {
  const auto it = ids_.find(content);
  if (it == ids_.end()) return std::nullopt;
  return it->second;
}

std::optional<TokenId> TokenTable::FindInModel(std::string_view content) const {
  const std::optional<TokenId> id = Find(content);
  if (!id.has_value() || !entries_[*id].in_model) return std::nullopt;
  return id;
}

}  // namespace tessera
