#include "kernels/model/quantize/quantize_folder.h"

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "kernels/model/checkpoint/safetensors.h"
#include "kernels/model/checkpoint/safetensors_writer.h"
#include "kernels/model/checkpoint/weight_plan.h"
#include "kernels/model/model_spec.h"
#include "kernels/model/quantize/pack_quantized.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr char kConfig[] = "config.json";
constexpr char kWeightSuffix[] = ".weight";

// Whether a file of the original folder holds weights or is about them.
bool IsOfWeights(const std::string& name) {
  for (const char* suffix : {".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json",
                             ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"}) {
    if (absl::EndsWith(name, suffix)) return true;
  }
  return false;
}

absl::Status FileError(const fs::path& path, const std::string& why) {
  return absl::UnavailableError(
      absl::StrCat("cannot write ", path.string(), ": ", why, "; check the folder"));
}

// Copies the regular files that are not of the weights.
absl::Status CopyFiles(const std::string& dir, const std::string& out) {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir, error)) {
    const std::string name = entry.path().filename().string();
    if (!entry.is_regular_file(error) || name == kConfig || IsOfWeights(name)) continue;
    fs::copy_file(entry.path(), fs::path(out) / name, error);
    if (error) return FileError(fs::path(out) / name, error.message());
  }
  return error ? FileError(out, error.message()) : absl::OkStatus();
}

nlohmann::ordered_json QuantizationConfig(const WeightFormat& format) {
  const nlohmann::ordered_json weights = {
      {"num_bits", format.dtype == DType::kI8 ? 8 : 4},
      {"type", "int"},
      {"symmetric", !format.asymmetric},
      {"strategy", "group"},
      {"group_size", format.group_size},
      {"dynamic", false},
      {"actorder", "static"},
      {"observer", "mse"},
  };
  const nlohmann::ordered_json group = {{"targets", {"Linear"}},
                                        {"weights", weights},
                                        {"input_activations", nullptr},
                                        {"output_activations", nullptr}};
  return {{"quant_method", "compressed-tensors"},
          {"format", "pack-quantized"},
          {"quantization_status", "compressed"},
          {"config_groups", {{"group_0", group}}},
          {"ignore", {"lm_head"}},
          {"kv_cache_scheme", nullptr}};
}

// The text of config.json with the quantisation.
absl::StatusOr<std::string> ConfigText(const std::string& dir, const WeightFormat& format) {
  const std::string path = absl::StrCat(dir, "/", kConfig);
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  auto config = nlohmann::ordered_json::parse(text.str(), nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) {
    return absl::InvalidArgumentError(path + " is no JSON object; use an unchanged model folder");
  }
  if (config.contains("text_config")) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, " describes a multimodal model; quantise a folder of the language model alone"));
  }
  config["quantization_config"] = QuantizationConfig(format);
  return config.dump(2) + "\n";
}

absl::Status WriteText(const fs::path& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  file.close();
  return file ? absl::OkStatus() : FileError(path, "the disk took not all bytes");
}

}  // namespace

absl::Status CheckNewFolder(const std::string& out) {
  std::error_code error;
  if (!fs::exists(out, error)) return absl::OkStatus();
  if (fs::is_directory(out, error) && fs::is_empty(out, error)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(out, " exists and is no empty folder; give --out a new folder"));
}

absl::Status QuantizeFolder(const std::string& dir,
                            const std::vector<std::vector<TokenId>>& sequences,
                            const QuantizeOptions& options, ThreadTeam* team,
                            const std::function<void(const QuantizeProgress&)>& progress,
                            const std::string& out) {
  RETURN_IF_ERROR(CheckNewFolder(out));
  ASSIGN_OR_RETURN(ModelSpec spec, LoadModelSpec(dir));
  ASSIGN_OR_RETURN(const WeightFormat format, QuantizeFormatOf(spec, options.format));
  ASSIGN_OR_RETURN(const std::string config, ConfigText(dir, format));
  ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, Checkpoint::OpenDir(dir));
  UntieStoredHead(*checkpoint, &spec);

  std::map<std::string, PackedTensors> quantized;  // by the name of the original tensor
  const auto take = [&quantized](const std::string& name, const QuantizedMatrix& matrix) {
    quantized.emplace(name, PackedTensors(matrix));
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(QuantizeModel(spec, *checkpoint, sequences, options, team, take, progress));

  std::vector<TensorToWrite> tensors;
  for (const auto& [name, tensor] : checkpoint->tensors()) {
    const auto packed = quantized.find(name);
    if (packed == quantized.end()) {
      tensors.push_back({name, tensor.dtype_name, tensor.shape, tensor.data, tensor.num_bytes});
      continue;
    }
    const std::string module = name.substr(0, name.size() - (sizeof(kWeightSuffix) - 1));
    for (TensorToWrite& part : packed->second.Tensors(module)) tensors.push_back(std::move(part));
  }
  std::error_code error;
  fs::create_directories(out, error);
  if (error) return FileError(out, error.message());
  RETURN_IF_ERROR(WriteSafetensors(out + "/model.safetensors", std::move(tensors)));
  RETURN_IF_ERROR(checkpoint->CheckIntact());
  RETURN_IF_ERROR(CopyFiles(dir, out));
  // Last, because a folder with config.json looks whole.
  return WriteText(fs::path(out) / kConfig, config);
}

}  // namespace tessera
