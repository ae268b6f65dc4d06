#include "server/grpc/authenticator.h"

#include <utility>

#include "absl/strings/match.h"
#include "kernels/base/status.h"
#include "server/call/errors.h"
#include "server/door/peer.h"

namespace tessera {
namespace {

constexpr char kTokenKey[] = "authorization";
constexpr char kClientIdKey[] = "x-client-id";
constexpr absl::string_view kBearer("bearer ");

absl::Status Unauthenticated(absl::string_view reason, absl::string_view message) {
  return MakeError(absl::StatusCode::kUnauthenticated, reason, message);
}

absl::string_view ViewOf(const grpc::string_ref& text) { return {text.data(), text.size()}; }

// The caller with the token in this value of `authorization`.
absl::StatusOr<Caller> WithToken(absl::string_view value, const Identities& identities) {
  if (!absl::StartsWithIgnoreCase(value, kBearer)) {
    return Unauthenticated("NO_BEARER_TOKEN",
                           "the metadata `authorization` has no bearer token; send "
                           "`authorization: Bearer TOKEN`");
  }
  const Caller* const caller = identities.FindToken(value.substr(kBearer.size()));
  if (caller != nullptr) return *caller;
  return Unauthenticated("UNKNOWN_TOKEN",
                         "the bearer token is not known; check the token, or ask the operator to "
                         "add its hash to security.identities");
}

}  // namespace

Authenticator::Authenticator(std::shared_ptr<const Identities> identities, const ClientNames* names)
    : names_(names), identities_(std::move(identities)) {}

void Authenticator::SetIdentities(std::shared_ptr<const Identities> identities) {
  std::lock_guard<std::mutex> lock(mutex_);
  identities_ = std::move(identities);
}

std::shared_ptr<const Identities> Authenticator::identities() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return identities_;
}

absl::StatusOr<Caller> Authenticator::Identify(const grpc::CallbackServerContext& call) const {
  const std::shared_ptr<const Identities> known = identities();
  const auto& metadata = call.client_metadata();
  Caller caller;
  if (!known->empty()) {
    const auto [begin, end] = metadata.equal_range(kTokenKey);
    if (begin != end) {
      if (std::next(begin) != end) {
        return Unauthenticated("SEVERAL_TOKENS",
                               "the call has `authorization` more than once; send it once");
      }
      ASSIGN_OR_RETURN(caller, WithToken(ViewOf(begin->second), *known));
    } else {
      const ClientNames::Names names = names_->Find(ConnectionOf(call.peer()));
      const Caller* const found = names == nullptr ? nullptr : known->FindNames(*names);
      if (found == nullptr && names != nullptr && known->has_certificates()) {
        return Unauthenticated("UNKNOWN_CERTIFICATE",
                               "no name of the client's certificate is known; ask the operator to "
                               "add one to security.identities");
      }
      if (found == nullptr) {
        return Unauthenticated("NO_IDENTITY",
                               known->has_tokens()
                                   ? "this server needs to know its callers; send the metadata "
                                     "`authorization: Bearer TOKEN`"
                                   : "this server needs to know its callers; connect with a client "
                                     "certificate");
      }
      caller = *found;
    }
  }
  const auto client_id = metadata.find(kClientIdKey);
  if (client_id != metadata.end()) caller.client_id = std::string(ViewOf(client_id->second));
  return caller;
}

absl::StatusOr<Caller> Authenticator::IdentifyAdmin(const grpc::CallbackServerContext& call,
                                                    bool loopback_only) const {
  const bool has_identities = !identities()->empty();
  if ((loopback_only || !has_identities) && !IsLoopbackPeer(ClientOf(call.peer()))) {
    return MakeError(absl::StatusCode::kPermissionDenied, "CONTROL_IS_LOCAL",
                     "Control answers on loopback only; call it on the server's machine");
  }
  ASSIGN_OR_RETURN(Caller caller, Identify(call));
  if (caller.admin || !has_identities) return caller;
  return MakeError(absl::StatusCode::kPermissionDenied, "NOT_ADMIN",
                   "Control needs an identity with `admin`; use an admin's token or certificate");
}

}  // namespace tessera
