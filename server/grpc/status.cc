#include "server/grpc/status.h"

#include "server/call/errors.h"

namespace tessera {

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()),
                      BoundedMessage(status.message()), ErrorDetails(status));
}

}  // namespace tessera
