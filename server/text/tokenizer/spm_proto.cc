#include "server/text/tokenizer/spm_proto.h"

#include <cstring>
#include <utility>

namespace tessera {
namespace {

// One field of a message. Its value is a number (wire types 0, 1 and 5) or bytes (wire type 2).
struct Field {
  uint64_t id = 0;
  uint64_t number = 0;
  std::string_view bytes;
};

class Reader {
 public:
  explicit Reader(std::string_view message) : rest_(message) {}

  // Reads the next field. Returns false at the end of the message or at malformed bytes; ok()
  // distinguishes the two.
  bool Next(Field* field) {
    uint64_t tag = 0;
    if (rest_.empty() || !Varint(&tag)) return false;
    *field = Field{tag >> 3, 0, {}};
    switch (tag & 7) {
      case 0:
        return Varint(&field->number);
      case 1:
        return Fixed(8, &field->number);
      case 2: {
        uint64_t size = 0;
        if (!Varint(&size)) return false;
        if (size > rest_.size()) return Fail();
        field->bytes = rest_.substr(0, size);
        rest_.remove_prefix(size);
        return true;
      }
      case 5:
        return Fixed(4, &field->number);
      default:
        return Fail();
    }
  }

  bool ok() const { return ok_; }

 private:
  bool Fail() {
    ok_ = false;
    return false;
  }

  bool Varint(uint64_t* value) {
    *value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (rest_.empty()) return Fail();
      const uint64_t byte = static_cast<unsigned char>(rest_[0]);
      rest_.remove_prefix(1);
      *value |= (byte & 0x7F) << shift;
      if (byte < 0x80) return true;
    }
    return Fail();
  }

  bool Fixed(size_t size, uint64_t* value) {
    if (rest_.size() < size) return Fail();
    *value = 0;
    std::memcpy(value, rest_.data(), size);
    rest_.remove_prefix(size);
    return true;
  }

  std::string_view rest_;
  bool ok_ = true;
};

bool ReadPiece(std::string_view message, SpmProto* proto) {
  std::string text;
  float score = 0;
  int64_t type = SpmProto::kNormal;
  Reader reader(message);
  for (Field field; reader.Next(&field);) {
    if (field.id == 1) {
      text = field.bytes;
    } else if (field.id == 2) {
      const uint32_t bits = static_cast<uint32_t>(field.number);
      std::memcpy(&score, &bits, sizeof(score));
    } else if (field.id == 3) {
      type = static_cast<int64_t>(field.number);
    }
  }
  proto->pieces.push_back(std::move(text));
  proto->scores.push_back(score);
  proto->piece_types.push_back(type);
  return reader.ok();
}

bool ReadTrainerSpec(std::string_view message, SpmProto* proto) {
  Reader reader(message);
  for (Field field; reader.Next(&field);) {
    if (field.id == 3) proto->model_type = static_cast<int64_t>(field.number);
    if (field.id == 24) proto->whitespace_as_suffix = field.number != 0;
    if (field.id == 46) proto->bos_piece = field.bytes;
    if (field.id == 47) proto->eos_piece = field.bytes;
  }
  return reader.ok();
}

bool ReadNormalizerSpec(std::string_view message, SpmProto* proto) {
  Reader reader(message);
  for (Field field; reader.Next(&field);) {
    if (field.id == 2) proto->has_charsmap = !field.bytes.empty();
    if (field.id == 3) proto->add_dummy_prefix = field.number != 0;
    if (field.id == 4) proto->remove_extra_whitespaces = field.number != 0;
    if (field.id == 5) proto->escape_whitespaces = field.number != 0;
  }
  return reader.ok();
}

}  // namespace

int SpmProto::ControlId(std::string_view text) const {
  for (size_t id = 0; id < pieces.size(); ++id) {
    if (piece_types[id] == kControl && pieces[id] == text) return static_cast<int>(id);
  }
  return -1;
}

std::optional<SpmProto> ParseSpmProto(std::string_view serialized) {
  SpmProto proto;
  Reader reader(serialized);
  bool ok = true;
  for (Field field; ok && reader.Next(&field);) {
    if (field.id == 1) ok = ReadPiece(field.bytes, &proto);
    if (field.id == 2) ok = ReadTrainerSpec(field.bytes, &proto);
    if (field.id == 3) ok = ReadNormalizerSpec(field.bytes, &proto);
  }
  if (!ok || !reader.ok()) return std::nullopt;
  return proto;
}

}  // namespace tessera
