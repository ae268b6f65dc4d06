#include "kernels/model/checkpoint/model_folder.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/paths.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxEntries = 10'000;  // of a folder that are looked at
constexpr size_t kMaxNamed = 3;
constexpr char kLayout[] =
    "a model is a folder in Hugging Face layout: config.json, *.safetensors, tokenizer files";
constexpr char kNoGguf[] =
    "GGUF is not supported yet; download the model's original folder in Hugging Face layout "
    "(config.json, *.safetensors, tokenizer files), which --dtype int8, int5 or int4 quantises at "
    "load";

// The names of the folder's entries that end in one of `suffixes`, sorted.
std::vector<std::string> NamesWith(const std::string& dir,
                                   const std::vector<const char*>& suffixes) {
  std::vector<std::string> names;
  std::error_code error;
  size_t num_entries = 0;
  for (fs::directory_iterator it(dir, error), end; !error && it != end; it.increment(error)) {
    if (++num_entries > kMaxEntries) break;
    const std::string name = it->path().filename().string();
    const bool matches = std::any_of(suffixes.begin(), suffixes.end(), [&name](const char* suffix) {
      return absl::EndsWith(name, suffix);
    });
    if (matches) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string List(const std::vector<std::string>& names) {
  const size_t shown = std::min(names.size(), kMaxNamed);
  const std::string list = absl::StrJoin(names.begin(), names.begin() + shown, ", ");
  return shown == names.size() ? list : absl::StrCat(list, ", ...");
}

absl::Status Error(const std::string& path, absl::string_view message) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", message));
}

// The error for a path that is a file.
absl::Status NoFolder(const std::string& path) {
  if (absl::EndsWithIgnoreCase(path, ".gguf")) {
    return Error(path, absl::StrCat("is a GGUF file; ", kNoGguf));
  }
  return Error(path, absl::StrCat("is a file; give the folder that has it; ", kLayout));
}

}  // namespace

absl::Status NoModelConfig(const std::string& dir, const absl::Status& cause) {
  std::error_code error;
  const fs::file_status status = fs::status(dir, error);
  if (fs::exists(status) && !fs::is_directory(status)) return NoFolder(dir);
  if (!absl::IsNotFound(cause)) return cause;
  if (PathExists(absl::StrCat(dir, "/adapter_config.json"))) {
    return Error(dir,
                 "is a LoRA adapter; give it by --adapters, and the model that it was trained for "
                 "by --model");
  }
  if (const auto names = NamesWith(dir, {".gguf"}); !names.empty()) {
    return Error(dir, absl::StrCat("has no config.json but ", List(names), "; ", kNoGguf));
  }
  if (PathExists(absl::StrCat(dir, "/params.json"))) {
    return Error(dir,
                 absl::StrCat("has params.json, the original format of Meta and Mistral; download "
                              "or convert the model in Hugging Face layout; ",
                              kLayout));
  }
  return absl::InvalidArgumentError(absl::StrCat(cause.message(), "; ", kLayout));
}

absl::Status NoSafetensors(const std::string& dir) {
  if (const auto names = NamesWith(dir, {".safetensors"}); !names.empty()) {
    return Error(dir, absl::StrCat("has ", List(names),
                                   " but neither model.safetensors nor "
                                   "model.safetensors.index.json; download the index, or rename a "
                                   "single file to model.safetensors"));
  }
  if (const auto names = NamesWith(dir, {".bin", ".bin.index.json", ".pt", ".pth"});
      !names.empty()) {
    return Error(dir,
                 absl::StrCat("has its weights in PyTorch's format only (", List(names),
                              "), which is not read because it can run code; convert them with "
                              "transformers: AutoModelForCausalLM.from_pretrained(DIR)"
                              ".save_pretrained(NEW_DIR)"));
  }
  if (const auto names = NamesWith(dir, {".gguf"}); !names.empty()) {
    return Error(dir, absl::StrCat("has its weights in ", List(names), " only; ", kNoGguf));
  }
  return Error(dir,
               "has neither model.safetensors nor model.safetensors.index.json; download the "
               "weights into this folder");
}

}  // namespace tessera
