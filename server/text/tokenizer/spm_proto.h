// A parser for SentencePiece model files. It reads the protobuf wire format itself, because
// SentencePiece's library contains a copy of protobuf whose symbols clash with the server's. Pure
// function; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

struct SpmProto {
  enum ModelType { kUnigram = 1, kBpe = 2, kWord = 3, kChar = 4 };
  enum PieceType {
    kNormal = 1,
    kUnknown = 2,
    kControl = 3,
    kUserDefined = 4,
    kUnused = 5,
    kByte = 6
  };

  int64_t size() const { return static_cast<int64_t>(pieces.size()); }
  // The id of the control piece with this text, or -1.
  int ControlId(std::string_view text) const;

  // These vectors are indexed by token id.
  std::vector<std::string> pieces;
  std::vector<float> scores;
  std::vector<int64_t> piece_types;
  std::string bos_piece = "<s>";
  std::string eos_piece = "</s>";
  int64_t model_type = kUnigram;
  bool whitespace_as_suffix = false;
  bool has_charsmap = false;  // the model normalizes text by a table
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
};

// Returns nullopt when the bytes are malformed.
std::optional<SpmProto> ParseSpmProto(std::string_view serialized);

}  // namespace tessera
