// The SentencePiece library behind a wall: its header redefines absl::string_view, so nothing else
// includes it. Immutable once loaded; any thread.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

class SentencePieceModel final {
 public:
  // nullptr when the bytes are not a model.
  static std::unique_ptr<SentencePieceModel> Load(std::string_view serialized);
  ~SentencePieceModel();

  int size() const;
  // REQUIRES, for those below: 0 <= id < size().
  const std::string& piece(int id) const;
  bool is_control(int id) const;
  bool is_unknown(int id) const;
  bool is_byte(int id) const;
  // -1 where the model has none.
  int bos_id() const;
  int eos_id() const;

  void Encode(std::string_view text, std::vector<int>* ids) const;

 private:
  struct Impl;
  explicit SentencePieceModel(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tessera
