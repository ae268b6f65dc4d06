#include "server/text/template/chat_templates.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/text/template/chat_template_source.h"

namespace tessera {
namespace {

constexpr char kDefault[] = "default";
constexpr char kToolUse[] = "tool_use";

std::string Fault(const std::string& name, const absl::Status& status) {
  return absl::StrCat("has a chat template '", name,
                      "' that cannot be used: ", absl::string_view(status.message()));
}

}  // namespace

ChatTemplates ChatTemplates::Load(const std::string& model_dir) {
  ChatTemplates templates;
  absl::StatusOr<ChatTemplateSources> sources = LoadChatTemplateSources(model_dir);
  templates.files_ = sources.status();
  if (!sources.ok()) return templates;
  for (const auto& [name, text] : *sources) {
    templates.by_name_.emplace(name, ChatTemplate::Parse(text));
  }
  return templates;
}

absl::StatusOr<const ChatTemplate*> ChatTemplates::Choose(bool has_tools) const {
  if (!files_.ok()) {
    return absl::FailedPreconditionError(absl::StrCat("has a chat template that cannot be read: ",
                                                      absl::string_view(files_.message())));
  }
  if (by_name_.empty()) return absl::FailedPreconditionError("has no chat template");
  auto chosen = has_tools ? by_name_.find(kToolUse) : by_name_.end();
  if (chosen == by_name_.end()) chosen = by_name_.find(kDefault);
  if (chosen == by_name_.end()) {
    const auto add_name = [](std::string* out, const auto& entry) {
      absl::StrAppend(out, "'", entry.first, "'");
    };
    return absl::FailedPreconditionError(
        absl::StrCat("has no chat template named 'default'; its templates are ",
                     absl::StrJoin(by_name_, ", ", add_name)));
  }
  const auto& [name, parsed] = *chosen;
  if (!parsed.ok()) return absl::FailedPreconditionError(Fault(name, parsed.status()));
  return parsed->get();
}

std::vector<std::string> ChatTemplates::Faults() const {
  std::vector<std::string> faults;
  if (files_.ok() && by_name_.empty()) return faults;
  for (const auto& [name, parsed] : by_name_) {
    if (!parsed.ok()) faults.push_back(Fault(name, parsed.status()));
  }
  if (by_name_.count(kDefault) == 0) faults.emplace_back(Choose(false).status().message());
  return faults;
}

}  // namespace tessera
