#include "server/grpc/byte_buffers.h"

#include <grpcpp/impl/codegen/proto_utils.h>

#include <vector>

#include "absl/strings/str_cat.h"
#include "server/call/errors.h"
#include "server/call/limits.h"

namespace tessera {

absl::Status Serialize(const google::protobuf::Message& message, grpc::ByteBuffer* buffer) {
  // Checked before the encoding, because protobuf cannot encode a message of more than 2 GiB.
  if (message.ByteSizeLong() > static_cast<size_t>(kMaxMessageBytes)) {
    return MakeError(
        absl::StatusCode::kResourceExhausted, "REPLY_TOO_LARGE",
        absl::StrCat("the reply has ", message.ByteSizeLong(), " bytes, more than the ",
                     kMaxMessageBytes, " of a message; ask for less at once"));
  }
  bool owned = false;
  const grpc::Status status =
      grpc::SerializationTraits<google::protobuf::Message>::Serialize(message, buffer, &owned);
  if (!status.ok()) {
    return MakeError(absl::StatusCode::kInternal, "REPLY_NOT_ENCODED", status.error_message());
  }
  return absl::OkStatus();
}

std::string TakeBytes(const grpc::ByteBuffer* request) {
  // The cast is safe: only this call uses the buffer, and nothing reads it after this function.
  auto* buffer = const_cast<grpc::ByteBuffer*>(request);
  std::vector<grpc::Slice> slices;
  std::string bytes;
  if (!buffer->Dump(&slices).ok()) return bytes;
  bytes.reserve(buffer->Length());
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  buffer->Clear();
  return bytes;
}

}  // namespace tessera
