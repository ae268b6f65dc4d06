// SHA-256 over a sequence of byte ranges (OpenSSL EVP), with one digest context that is reused from
// message to message. Names that must not be forged or met by accident are made of it.
//
// A Sha256 is used by one thread.
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
  // Appends the field's length (8 bytes, little endian) and the field: no two lists of fields give
  // one message.
  void AddField(absl::string_view field);
  void AddNumber(uint64_t number) { Add(&number, sizeof(number)); }
  // The digest of the message; the next message is empty again.
  Sha256Digest Finish();

 private:
  struct FreeContext {
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
  };
  std::unique_ptr<EVP_MD_CTX, FreeContext> context_;
};

}  // namespace tessera
