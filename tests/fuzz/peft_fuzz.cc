// Reads arbitrary bytes as an adapter of a model with one layer. An accepted adapter must fit in
// pages. The input is adapter_config.json, a NUL, the header of adapter_model.safetensors, a NUL,
// and the data of that file.
#include <stdlib.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "kernels/base/log.h"
#include "kernels/model/lora/peft.h"

namespace tessera {
namespace {

ModelSpec OneLayer() {
  ModelSpec spec;
  spec.hidden = 16;
  spec.intermediate = 16;
  spec.num_layers = 1;
  spec.heads = 1;
  spec.kv_heads = 1;
  spec.head_dim = 16;
  return spec;
}

// A folder of this process; it is deleted when the process ends.
class TemporaryFolder {
 public:
  TemporaryFolder() : path_(std::filesystem::temp_directory_path() / "peft_fuzz_XXXXXX") {
    CHECK(mkdtemp(path_.data()) != nullptr) << path_;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

void Write(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

}  // namespace
}  // namespace tessera

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const tessera::TemporaryFolder folder;
  const std::string& dir = folder.path();
  const std::string input(reinterpret_cast<const char*>(data), size);
  const size_t config_end = std::min(input.find('\0'), size);
  const size_t header_begin = std::min(config_end + 1, size);
  const size_t header_end = std::min(input.find('\0', header_begin), size);
  const uint64_t length = header_end - header_begin;
  std::string file(sizeof(length), '\0');
  std::memcpy(file.data(), &length, sizeof(length));
  file += input.substr(header_begin, length);
  file += input.substr(std::min(header_end + 1, size));
  tessera::Write(dir + "/adapter_config.json", input.substr(0, config_end));
  tessera::Write(dir + "/adapter_model.safetensors", file);
  const tessera::ModelSpec spec = tessera::OneLayer();
  const auto ranks = tessera::PeftAdapter::ReadRanks(spec, dir);
  const auto adapter = tessera::PeftAdapter::Open(spec, dir);
  CHECK(ranks.ok() || ranks.status() == adapter.status());
  if (!adapter.ok()) {
    CHECK(!adapter.status().message().empty());
    return 0;
  }
  CHECK(ranks.ok() && *ranks == (*adapter)->ranks());
  CHECK_GT((*adapter)->max_rank(), 0);
  const auto image =
      tessera::BuildAdapterImage(spec, {{adapter->get(), 0.5f}}, tessera::DType::kBF16, 4096);
  CHECK(image.ok() || !image.status().message().empty());
  const auto nearest = tessera::BuildAdapterImage(
      spec, {{adapter->get(), 0.5f}, {adapter->get(), -3.0f}}, tessera::DType::kI8, 4096, 2);
  CHECK(nearest.ok() || !nearest.status().message().empty());
  return 0;
}
