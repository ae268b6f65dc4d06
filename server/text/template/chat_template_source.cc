#include "server/text/template/chat_template_source.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/foreign_file.h"
#include "kernels/base/status.h"

namespace tessera {
namespace {

using nlohmann::json;

constexpr char kDefault[] = "default";
constexpr int64_t kMaxFileBytes = int64_t{256} << 20;

// Returns the content of the file, or nullopt if the file does not exist.
absl::StatusOr<std::optional<std::string>> ReadFile(const std::filesystem::path& path) {
  absl::StatusOr<std::string> text =
      ReadForeignFile(path.string(), {.max_bytes = kMaxFileBytes, .roots = {}});
  if (absl::IsNotFound(text.status())) return std::optional<std::string>();
  RETURN_IF_ERROR(text.status());
  return std::optional<std::string>(*std::move(text));
}

// Reads a list of named templates: [{"name": "default", "template": "..."}, ...].
absl::StatusOr<ChatTemplateSources> FromList(const std::string& path, const json& list) {
  if (list.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": chat_template is an empty list"));
  }
  ChatTemplateSources sources;
  for (const json& entry : list) {
    const bool is_named = entry.is_object() && entry.contains("name") &&
                          entry["name"].is_string() && entry.contains("template") &&
                          entry["template"].is_string();
    if (!is_named) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": each entry of chat_template needs a name and a template"));
    }
    sources[entry["name"].get<std::string>()] = entry["template"].get<std::string>();
  }
  return sources;
}

// Reads the member `chat_template` of a JSON file.
absl::StatusOr<ChatTemplateSources> FromJsonFile(const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(const std::optional<std::string> text, ReadFile(path));
  if (!text.has_value()) return ChatTemplateSources();
  const json config = json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), ": not a JSON object"));
  }
  const auto found = config.find("chat_template");
  if (found == config.end() || found->is_null()) return ChatTemplateSources();
  if (found->is_array()) return FromList(path.string(), *found);
  if (!found->is_string()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path.string(), ": chat_template must be a string or a list"));
  }
  return ChatTemplateSources{{kDefault, found->get<std::string>()}};
}

// Reads chat_template.jinja and the files in additional_chat_templates.
absl::StatusOr<ChatTemplateSources> FromJinjaFiles(const std::filesystem::path& dir) {
  std::vector<std::pair<std::string, std::filesystem::path>> files = {
      {kDefault, dir / "chat_template.jinja"}};
  std::error_code error;
  const std::filesystem::directory_iterator folder(dir / "additional_chat_templates", error);
  for (auto it = begin(folder); !error && it != end(folder); it.increment(error)) {
    if (it->path().extension() == ".jinja") files.emplace_back(it->path().stem(), it->path());
  }
  ChatTemplateSources sources;
  for (const auto& [name, path] : files) {
    ASSIGN_OR_RETURN(std::optional<std::string> text, ReadFile(path));
    if (text.has_value()) sources[name] = *std::move(text);
  }
  return sources;
}

}  // namespace

absl::StatusOr<ChatTemplateSources> LoadChatTemplateSources(const std::string& model_dir) {
  const std::filesystem::path dir(model_dir);
  ASSIGN_OR_RETURN(ChatTemplateSources sources, FromJinjaFiles(dir));
  if (!sources.empty()) return sources;
  ASSIGN_OR_RETURN(sources, FromJsonFile(dir / "chat_template.json"));
  if (!sources.empty()) return sources;
  return FromJsonFile(dir / "tokenizer_config.json");
}

}  // namespace tessera
