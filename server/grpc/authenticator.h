// Finds out who makes a call: by the bearer token in its metadata, or by the certificate of its
// connection. The gRPC server owns the authenticator. Any thread.
#pragma once

#include <grpcpp/server_context.h>

#include <memory>
#include <mutex>
#include <string>

#include "absl/status/statusor.h"
#include "server/door/caller.h"
#include "server/door/client_names.h"
#include "server/door/identities.h"

namespace tessera {

class Authenticator final {
 public:
  // `names` outlives the authenticator.
  Authenticator(std::shared_ptr<const Identities> identities, const ClientNames* names);

  // New calls are judged by this set. REQUIRES: not null.
  void SetIdentities(std::shared_ptr<const Identities> identities);

  // The caller; without configured identities everybody is the tenant "". UNAUTHENTICATED: the call
  // has neither a known token nor a certificate with a known name. If the call has a token, only
  // the token counts. No error contains any part of a token.
  absl::StatusOr<Caller> Identify(const grpc::CallbackServerContext& call) const;

  // The same for calls of Control. PERMISSION_DENIED: the caller is not an admin, or, without
  // configured identities or with `loopback_only`, is not on this machine.
  absl::StatusOr<Caller> IdentifyAdmin(const grpc::CallbackServerContext& call,
                                       bool loopback_only) const;

 private:
  std::shared_ptr<const Identities> identities() const;

  const ClientNames* const names_;
  mutable std::mutex mutex_;
  std::shared_ptr<const Identities> identities_;  // guarded by mutex_
};

}  // namespace tessera
