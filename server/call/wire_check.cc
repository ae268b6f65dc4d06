#include "server/call/wire_check.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/message.h>
#include <google/protobuf/wire_format_lite.h>

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "server/call/errors.h"
#include "server/text/tokenizer/utf8.h"

namespace tessera {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;

constexpr int kMaxDepth = 32;

absl::Status Malformed(const std::string& path) {
  return MakeError(absl::StatusCode::kInvalidArgument, "MALFORMED_MESSAGE",
                   absl::StrCat("the message is truncated or malformed",
                                path.empty() ? "" : absl::StrCat(" in ", path),
                                "; send what protobuf's own libraries encode"));
}

absl::Status TooMany(const std::string& path, int64_t limit) {
  return FieldError(path, absl::StrCat("has more than ", limit, " values; send fewer"));
}

class WireChecker {
 public:
  absl::Status Check(const Descriptor& descriptor, absl::string_view bytes, const std::string& path,
                     int depth) {
    if (depth > kMaxDepth) return Malformed(path);
    CodedInputStream in(reinterpret_cast<const uint8_t*>(bytes.data()),
                        static_cast<int>(bytes.size()));
    while (in.CurrentPosition() < static_cast<int>(bytes.size())) {
      const uint32_t tag = in.ReadTag();
      if (WireFormatLite::GetTagFieldNumber(tag) == 0) return Malformed(path);
      RETURN_IF_ERROR(CheckField(descriptor, tag, bytes, path, depth, &in));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status CheckField(const Descriptor& descriptor, uint32_t tag, absl::string_view bytes,
                          const std::string& path, int depth, CodedInputStream* in) {
    const int number = WireFormatLite::GetTagFieldNumber(tag);
    const FieldDescriptor* field = descriptor.FindFieldByNumber(number);
    if (field == nullptr) {
      return MakeError(
          absl::StatusCode::kInvalidArgument, "UNKNOWN_FIELD",
          absl::StrCat("field ", number, " of ", descriptor.full_name(),
                       path.empty() ? "" : " (in ", path, path.empty() ? "" : ")",
                       " is not known to this server; leave it out, or ask Control.GetCapabilities "
                       "for the fields it takes"));
    }
    const std::string name = path.empty() ? field->name() : absl::StrCat(path, ".", field->name());
    const auto wire_type = WireFormatLite::GetTagWireType(tag);
    if (wire_type == WireFormatLite::WIRETYPE_LENGTH_DELIMITED) {
      uint32_t size = 0;
      if (!in->ReadVarint32(&size)) return Malformed(name);
      const size_t begin = static_cast<size_t>(in->CurrentPosition());
      if (size > bytes.size() - begin) return Malformed(name);
      RETURN_IF_ERROR(CheckDelimited(*field, bytes.substr(begin, size), name, depth));
      return in->Skip(static_cast<int>(size)) ? absl::OkStatus() : Malformed(name);
    }
    if (wire_type != WireFormatLite::WireTypeForFieldType(
                         static_cast<WireFormatLite::FieldType>(field->type()))) {
      return Malformed(name);
    }
    return CheckScalar(*field, name, in);
  }

  absl::Status CheckDelimited(const FieldDescriptor& field, absl::string_view bytes,
                              const std::string& name, int depth) {
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      if (++num_messages_ > kMaxWireItems) return TooMany(name, kMaxWireItems);
      return Check(*field.message_type(), bytes, name, depth + 1);
    }
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
      if (++num_messages_ > kMaxWireItems) return TooMany(name, kMaxWireItems);
      if (field.type() == FieldDescriptor::TYPE_BYTES || IsValidUtf8({bytes.data(), bytes.size()}))
        return absl::OkStatus();
      return FieldError(name, "is not valid UTF-8; encode the text as UTF-8");
    }
    if (!field.is_packable()) return Malformed(name);
    return CheckPacked(field, bytes, name);
  }

  absl::Status CheckPacked(const FieldDescriptor& field, absl::string_view bytes,
                           const std::string& name) {
    CodedInputStream in(reinterpret_cast<const uint8_t*>(bytes.data()),
                        static_cast<int>(bytes.size()));
    while (in.CurrentPosition() < static_cast<int>(bytes.size())) {
      RETURN_IF_ERROR(CheckScalar(field, name, &in));
    }
    return absl::OkStatus();
  }

  absl::Status CheckScalar(const FieldDescriptor& field, const std::string& name,
                           CodedInputStream* in) {
    // A packed list may come in several chunks, which protobuf joins. Their numbers are counted
    // together.
    if (++num_numbers_ > kMaxWireNumbers) return TooMany(name, kMaxWireNumbers);
    const auto wire_type =
        WireFormatLite::WireTypeForFieldType(static_cast<WireFormatLite::FieldType>(field.type()));
    if (wire_type == WireFormatLite::WIRETYPE_FIXED32) {
      return in->Skip(4) ? absl::OkStatus() : Malformed(name);
    }
    if (wire_type == WireFormatLite::WIRETYPE_FIXED64) {
      return in->Skip(8) ? absl::OkStatus() : Malformed(name);
    }
    uint64_t value = 0;
    if (!in->ReadVarint64(&value)) return Malformed(name);
    const EnumDescriptor* type = field.enum_type();
    if (type != nullptr && type->FindValueByNumber(static_cast<int>(value)) == nullptr) {
      return FieldError(name, absl::StrCat("is ", static_cast<int>(value), ", which is no ",
                                           type->name(), "; send one of its values"));
    }
    return absl::OkStatus();
  }

  int64_t num_messages_ = 0;
  int64_t num_numbers_ = 0;
};

}  // namespace

absl::Status CheckWire(const Descriptor& descriptor, absl::string_view bytes) {
  return WireChecker().Check(descriptor, bytes, "", 0);
}

absl::Status ParseStrict(absl::string_view bytes, google::protobuf::Message* message) {
  RETURN_IF_ERROR(CheckWire(*message->GetDescriptor(), bytes));
  if (!message->ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return Malformed("");
  return absl::OkStatus();
}

}  // namespace tessera
