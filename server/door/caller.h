// Who makes a call. Identities (identities.h) know callers; the rest of the server knows tenants
// only. A plain value; any thread.
#pragma once

#include <string>

namespace tessera {

struct Caller {
  // Whose requests these are: tenants share no KV. It never comes from a message. "" without
  // configured identities.
  std::string tenant;
  bool admin = false;  // may use Control
  // What the client calls itself (metadata x-client-id), for logs only: any bytes, may be empty.
  std::string client_id;
};

}  // namespace tessera
