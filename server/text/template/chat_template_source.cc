#include "server/text/template/chat_template_source.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/foreign_file.h"
#include "kernels/base/status.h"

namespace tessera {
namespace {

using nlohmann::json;

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
absl::StatusOr<std::optional<ChatTemplateSource>> FromList(const std::string& path,
                                                           const json& list) {
  std::optional<std::string> standard;
  ChatTemplateSource source;
  for (const json& entry : list) {
    const bool is_named = entry.is_object() && entry.contains("name") &&
                          entry["name"].is_string() && entry.contains("template") &&
                          entry["template"].is_string();
    if (!is_named) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": each entry of chat_template needs a name and a template"));
    }
    const std::string name = entry["name"].get<std::string>();
    if (name == "default") standard = entry["template"].get<std::string>();
    if (name == "tool_use") source.tool_use = entry["template"].get<std::string>();
  }
  if (!standard.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": chat_template has no entry named 'default'"));
  }
  source.text = *std::move(standard);
  return std::optional<ChatTemplateSource>(std::move(source));
}

// Reads the member `chat_template` of a JSON file.
absl::StatusOr<std::optional<ChatTemplateSource>> FromJsonFile(const std::filesystem::path& path) {
  ASSIGN_OR_RETURN(const std::optional<std::string> text, ReadFile(path));
  if (!text.has_value()) return std::optional<ChatTemplateSource>();
  const json config = json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), ": not a JSON object"));
  }
  const auto found = config.find("chat_template");
  if (found == config.end() || found->is_null()) return std::optional<ChatTemplateSource>();
  if (found->is_array()) return FromList(path.string(), *found);
  if (!found->is_string()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path.string(), ": chat_template must be a string or a list"));
  }
  return std::optional<ChatTemplateSource>(
      ChatTemplateSource{found->get<std::string>(), std::nullopt});
}

}  // namespace

absl::StatusOr<std::optional<ChatTemplateSource>> LoadChatTemplateSource(
    const std::string& model_dir) {
  const std::filesystem::path dir(model_dir);
  ASSIGN_OR_RETURN(std::optional<std::string> plain, ReadFile(dir / "chat_template.jinja"));
  if (plain.has_value()) {
    return std::optional<ChatTemplateSource>(ChatTemplateSource{*std::move(plain), std::nullopt});
  }
  ASSIGN_OR_RETURN(std::optional<ChatTemplateSource> source,
                   FromJsonFile(dir / "chat_template.json"));
  if (source.has_value()) return source;
  return FromJsonFile(dir / "tokenizer_config.json");
}

}  // namespace tessera
