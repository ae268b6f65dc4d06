// The few fields of a SentencePiece model file that its library keeps to itself, read from the
// protobuf wire format. Pure function; any thread.
#pragma once

#include <cstdint>
#include <optional>
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

  std::vector<float> scores;         // by id
  std::vector<int64_t> piece_types;  // by id
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
