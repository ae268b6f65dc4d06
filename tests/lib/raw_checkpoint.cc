#include "tests/lib/raw_checkpoint.h"

#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "kernels/base/log.h"
#include "kernels/model/checkpoint/safetensors.h"

namespace tessera::testing {

RawTensors ReadRawTensors(const std::string& dir) {
  const auto checkpoint = Checkpoint::OpenDir(dir);
  CHECK(checkpoint.ok()) << checkpoint.status();
  RawTensors tensors;
  for (const auto& [name, tensor] : (*checkpoint)->tensors()) {
    tensors[name] = {tensor.dtype_name, tensor.shape,
                     std::string(tensor.data, static_cast<size_t>(tensor.num_bytes))};
  }
  return tensors;
}

void WriteRawTensors(const std::string& dir, const RawTensors& tensors, size_t header_padding) {
  nlohmann::json header = nlohmann::json::object();
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    const size_t begin = data.size();
    data += tensor.bytes;
    header[name] = {
        {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
  }
  std::string text = header.dump();
  while ((text.size() + 8) % 16 != header_padding) text += ' ';
  const uint64_t length = text.size();
  std::ofstream file(dir + "/model.safetensors", std::ios::binary);
  file.write(reinterpret_cast<const char*>(&length), sizeof(length));
  file << text << data;
}

void WriteOverflowingModel(const std::string& from_dir, const std::string& dir) {
  std::filesystem::create_directories(dir);
  std::filesystem::copy_file(from_dir + "/config.json", dir + "/config.json",
                             std::filesystem::copy_options::overwrite_existing);
  RawTensors tensors = ReadRawTensors(from_dir);
  RawTensor& norm = tensors.at("model.norm.weight");
  CHECK_EQ(norm.shape.size(), 1u);
  const std::vector<float> weights(norm.shape[0], std::numeric_limits<float>::max());
  norm.dtype = "F32";
  norm.bytes.assign(reinterpret_cast<const char*>(weights.data()), weights.size() * sizeof(float));
  WriteRawTensors(dir, tensors);
}

}  // namespace tessera::testing
