// A SentencePiece model file, read from the protobuf wire format by ourselves: SentencePiece's
// library brings a protobuf of its own whose symbols clash with the server's. Pure function; any
// thread.
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
  // The id of a control piece of that text; -1: none.
  int ControlId(std::string_view text) const;

  std::vector<std::string> pieces;   // by id
  std::vector<float> scores;         // by id
  std::vector<int64_t> piece_types;  // by id
  std::string bos_piece = "<s>";
  std::string eos_piece = "</s>";
  int64_t model_type = kUnigram;
  bool whitespace_as_suffix = false;
  bool has_charsmap = false;  // the text is normalized by a table
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
};

// nullopt when the bytes are not well-formed.
std::optional<SpmProto> ParseSpmProto(std::string_view serialized);

}  // namespace tessera
