// A Sha256 computes the SHA-256 digest of a message that is given as a sequence of byte ranges
// (OpenSSL EVP). It reuses one digest context for all messages. Names that nobody may forge, and
// that must not collide by accident, are SHA-256 digests.
//
// The owner of a Sha256 uses it on one thread at a time.
#pragma once

#include <openssl/evp.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/strings/string_view.h"

namespace tessera {

using Sha256Digest = std::array<unsigned char, 32>;

class Sha256 final {
 public:
  // A new Sha256 has an empty message.
  Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  // Appends bytes to the message.
  void Add(const void* bytes, size_t num_bytes);
  // Appends the field's length (8 bytes, little endian) and the field, so that different lists of
  // fields give different messages.
  void AddField(absl::string_view field);
  void AddNumber(uint64_t number) { Add(&number, sizeof(number)); }
  // Returns the digest of the message, and starts a new, empty message.
  Sha256Digest Finish();

 private:
  struct FreeContext {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  std::unique_ptr<EVP_MD_CTX, FreeContext> context_;
};

}  // namespace tessera
