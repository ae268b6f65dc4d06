#include "server/byte_buffers.h"

#include <grpcpp/impl/codegen/proto_utils.h>

#include <vector>

#include "kernels/base/log.h"

namespace tessera {

grpc::ByteBuffer Serialize(const google::protobuf::Message& message) {
  grpc::ByteBuffer buffer;
  bool owned = false;
  const grpc::Status status =
      grpc::SerializationTraits<google::protobuf::Message>::Serialize(message, &buffer, &owned);
  CHECK(status.ok()) << status.error_message();
  return buffer;
}

std::string TakeBytes(const grpc::ByteBuffer* request) {
  auto* buffer = const_cast<grpc::ByteBuffer*>(request);  // ours alone, and never read again
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
