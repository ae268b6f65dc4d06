// Reads arbitrary bytes as a safetensors file. The tensors of an accepted file must lie inside the
// file. The first byte selects the form of the rest: a whole file; or the text of a header, a NUL
// and data, for which the fuzzer need not guess the length field.
#include <cstring>
#include <string>
#include <vector>

#include "kernels/base/log.h"
#include "kernels/model/checkpoint/safetensors.h"

namespace tessera {
namespace {

std::string FileOf(const std::string& input) {
  const size_t nul = input.find('\0');
  const std::string header = input.substr(0, nul);
  const uint64_t length = header.size();
  std::string file(sizeof(length), '\0');
  std::memcpy(file.data(), &length, sizeof(length));
  file += header;
  if (nul != std::string::npos) file += input.substr(nul + 1);
  return file;
}

void CheckTensor(const StoredTensor& tensor, const std::vector<char>& bytes) {
  CHECK_GE(tensor.data, bytes.data());
  CHECK_LE(tensor.data + tensor.num_bytes, bytes.data() + bytes.size());
  int64_t elements = 1;
  for (const int64_t size : tensor.shape) {
    CHECK_GE(size, 0);
    if (tensor.num_bytes > 0) elements *= size;
  }
  if (tensor.dtype.has_value() && tensor.num_bytes > 0) {
    CHECK_EQ(elements * DTypeBytes(*tensor.dtype), tensor.num_bytes);
  }
}

}  // namespace
}  // namespace tessera

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string input(reinterpret_cast<const char*>(data) + 1, size - 1);
  const std::string file = data[0] % 2 == 0 ? input : tessera::FileOf(input);
  // A copy of the exact size, so that the address sanitizer detects reads after its end.
  const std::vector<char> bytes(file.begin(), file.end());
  const auto tensors = tessera::ParseSafetensors("f", {bytes.data(), bytes.size()});
  if (!tensors.ok()) return 0;
  int64_t total = 0;
  for (const auto& [name, tensor] : *tensors) {
    tessera::CheckTensor(tensor, bytes);
    total += tensor.num_bytes;
  }
  CHECK_LE(total, static_cast<int64_t>(bytes.size()));
  return 0;
}
