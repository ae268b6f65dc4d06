#include "kernels/base/sha256.h"

#include <bit>

#include "kernels/base/log.h"

namespace tessera {

// Integers enter the digest as they lie in memory; digests must not depend on the machine.
static_assert(std::endian::native == std::endian::little);

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  CHECK(context_ != nullptr);
  CHECK_EQ(EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr), 1);
}

void Sha256::Add(const void* bytes, size_t num_bytes) {
  CHECK_EQ(EVP_DigestUpdate(context_.get(), bytes, num_bytes), 1);
}

void Sha256::AddField(absl::string_view field) {
  AddNumber(field.size());
  Add(field.data(), field.size());
}

Sha256Digest Sha256::Finish() {
  Sha256Digest digest;
  CHECK_EQ(EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr), 1);
  CHECK_EQ(EVP_DigestInit_ex(context_.get(), nullptr, nullptr), 1);
  return digest;
}

}  // namespace tessera
