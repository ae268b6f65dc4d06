#include "kvstore/identity.h"

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

constexpr absl::string_view kRootTag = "TSRroot2";
constexpr absl::string_view kPrivateTag = "TSRpriv1";

}  // namespace

std::string KvKey(const PageLayout& layout) {
  std::string key;
  for (const GroupLayout& group : layout.groups) {
    absl::StrAppend(&key, DTypeName(group.dtype), ",layers=", group.num_used_layers(),
                    ",kv_heads=", group.kv_heads, ",head_dim=", group.head_dim,
                    ",window=", group.window, ";");
  }
  return key;
}

PageHash RootOf(const Identity& identity) {
  return PageHasher().Record(
      kRootTag, {identity.deployment_secret, identity.model.weights, identity.model.spec,
                 identity.model.numerics, identity.kv, identity.adapter, identity.kv_policy,
                 identity.tenant, identity.salt});
}

PageHash PrivateRoot(const PageHash& root, uint64_t number) {
  const auto bytes_of = [](const auto& value) {
    return absl::string_view(reinterpret_cast<const char*>(&value), sizeof(value));
  };
  return PageHasher().Record(kPrivateTag, {bytes_of(root), bytes_of(number)});
}

}  // namespace tessera
