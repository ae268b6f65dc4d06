#include "server/config/config.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/base/foreign_file.h"
#include "kernels/base/nearest_word.h"
#include "kernels/base/status.h"
#include "server/config/config_rules.h"
#include "tessera/v1/config.pb.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr int64_t kMaxFileBytes = int64_t{1} << 20;
// The largest number of YAML maps in a file. YAML aliases can expand a small file to a huge tree,
// and a real configuration is far smaller.
constexpr int kMaxNodes = 100'000;

std::string JoinPath(const std::string& path, const std::string& name) {
  return path.empty() ? name : absl::StrCat(path, ".", name);
}

absl::Status UnknownKey(const std::string& origin, const std::string& path,
                        const Descriptor& descriptor, const std::string& key) {
  std::vector<std::string> names;
  names.reserve(static_cast<size_t>(descriptor.field_count()));
  for (int i = 0; i < descriptor.field_count(); ++i) names.push_back(descriptor.field(i)->name());
  const std::string nearest = NearestWord(key, names);
  return absl::InvalidArgumentError(absl::StrCat(
      origin, ": unknown key '", JoinPath(path, key), "'",
      nearest.empty()
          ? absl::StrCat("; known here: ", absl::StrJoin(names, ", "))
          : absl::StrCat("; the nearest known key is '", JoinPath(path, nearest), "'")));
}

absl::Status CheckRange(const std::string& where, const ConfigRule* rule, const std::string& text,
                        int64_t value) {
  if (rule == nullptr || (value >= rule->min && value <= rule->max)) return absl::OkStatus();
  const bool open = rule->max == std::numeric_limits<int64_t>::max();
  return absl::InvalidArgumentError(
      absl::StrCat(where, " is ", text, "; give ",
                   open ? absl::StrCat("at least ", rule->min)
                        : absl::StrCat("a value from ", rule->min, " to ", rule->max)));
}

absl::Status CheckWord(const std::string& where, const ConfigRule* rule, const std::string& text) {
  if (rule == nullptr || rule->allowed == nullptr) return absl::OkStatus();
  const std::vector<std::string> words = absl::StrSplit(rule->allowed, '|');
  if (std::find(words.begin(), words.end(), text) != words.end()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(where, " is '", text, "'; give one of ", absl::StrJoin(words, ", ")));
}

absl::Status CheckAddress(const std::string& where, const std::string& text) {
  const absl::StatusOr<HostPort> address = ParseHostPort(text);
  if (address.ok()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(where, " ", address.status().message()));
}

// Sets a scalar field from text. `path` is the dotted path of the field.
absl::Status SetScalar(const std::string& origin, const std::string& path,
                       const FieldDescriptor& field, const std::string& text, Message* message) {
  const Reflection& reflection = *message->GetReflection();
  const ConfigRule* rule = FindConfigRule(path);
  const std::string where = absl::StrCat(origin, ": ", path);
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      if (text.empty()) return absl::InvalidArgumentError(absl::StrCat(where, " is empty"));
      RETURN_IF_ERROR(CheckWord(where, rule, text));
      if (absl::EndsWith(path, "listen")) RETURN_IF_ERROR(CheckAddress(where, text));
      reflection.SetString(message, &field, text);
      return absl::OkStatus();
    case FieldDescriptor::CPPTYPE_UINT64: {
      const absl::StatusOr<uint64_t> size = ParseSize(text);
      if (!size.ok()) {
        return absl::InvalidArgumentError(absl::StrCat(where, " ", size.status().message()));
      }
      RETURN_IF_ERROR(CheckRange(where, rule, text, static_cast<int64_t>(*size)));
      reflection.SetUInt64(message, &field, *size);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_INT32:
    case FieldDescriptor::CPPTYPE_INT64: {
      int64_t value = 0;
      if (!absl::SimpleAtoi(text, &value)) {
        return absl::InvalidArgumentError(
            absl::StrCat(where, " is '", text, "'; give a whole number"));
      }
      RETURN_IF_ERROR(CheckRange(where, rule, text, value));
      if (field.cpp_type() == FieldDescriptor::CPPTYPE_INT64) {
        reflection.SetInt64(message, &field, value);
      } else {
        reflection.SetInt32(message, &field, static_cast<int32_t>(value));
      }
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_BOOL:
      if (text != "true" && text != "false") {
        return absl::InvalidArgumentError(
            absl::StrCat(where, " is '", text, "'; give true or false"));
      }
      reflection.SetBool(message, &field, text == "true");
      return absl::OkStatus();
    default:
      return absl::InternalError(absl::StrCat(where, " has a type that no value can be given"));
  }
}

// Copies a YAML tree into protobuf messages of the same shape. Errors take their line numbers from
// the YAML nodes.
class YamlMerger {
 public:
  explicit YamlMerger(const std::string& file) : file_(file) {}

  absl::Status MergeMap(const YAML::Node& node, const std::string& path, Message* message) {
    if (++num_nodes_ > kMaxNodes)
      return absl::InvalidArgumentError(absl::StrCat(file_, " is too large"));
    if (node.IsNull()) return absl::OkStatus();
    if (!node.IsMap()) {
      return absl::InvalidArgumentError(absl::StrCat(Origin(node), ": ",
                                                     path.empty() ? "the file" : path,
                                                     " must be a map of keys to values"));
    }
    std::set<std::string> seen;
    for (const auto& entry : node) {
      if (!entry.first.IsScalar()) {
        return absl::InvalidArgumentError(
            absl::StrCat(Origin(entry.first), ": a key must be a word"));
      }
      const std::string key = entry.first.Scalar();
      const std::string origin = Origin(entry.first);
      const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(key);
      if (field == nullptr) return UnknownKey(origin, path, *message->GetDescriptor(), key);
      if (!seen.insert(key).second) {
        return absl::InvalidArgumentError(
            absl::StrCat(origin, ": '", JoinPath(path, key), "' is there twice; remove one"));
      }
      RETURN_IF_ERROR(MergeField(origin, entry.second, JoinPath(path, key), *field, message));
    }
    return absl::OkStatus();
  }

 private:
  std::string Origin(const YAML::Node& node) const {
    return absl::StrCat(file_, ":", node.Mark().line + 1);
  }

  absl::Status MergeField(const std::string& origin, const YAML::Node& node,
                          const std::string& path, const FieldDescriptor& field, Message* message) {
    const Reflection& reflection = *message->GetReflection();
    if (field.is_repeated()) {
      if (!node.IsSequence()) {
        return absl::InvalidArgumentError(
            absl::StrCat(origin, ": '", path, "' must be a list (lines that begin with '- ')"));
      }
      reflection.ClearField(message, &field);
      for (const YAML::Node& item : node) {
        if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
          if (!item.IsScalar()) {
            return absl::InvalidArgumentError(
                absl::StrCat(origin, ": '", path, "' must be a list of values"));
          }
          reflection.AddString(message, &field, item.Scalar());
          continue;
        }
        RETURN_IF_ERROR(MergeMap(item, path, reflection.AddMessage(message, &field)));
      }
      return absl::OkStatus();
    }
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      return MergeMap(node, path, reflection.MutableMessage(message, &field));
    }
    if (!node.IsScalar()) {
      return absl::InvalidArgumentError(absl::StrCat(origin, ": '", path, "' must be one value"));
    }
    return SetScalar(origin, path, field, node.Scalar(), message);
  }

  const std::string file_;
  int num_nodes_ = 0;
};

// Returns the list element with the index `index_text`. An index equal to the size of the list
// appends an element.
absl::StatusOr<Message*> ListElement(const std::string& origin, const std::string& path,
                                     const std::string& index_text, const FieldDescriptor& field,
                                     Message* message) {
  const Reflection& reflection = *message->GetReflection();
  const int size = reflection.FieldSize(*message, &field);
  int index = -1;
  if (!absl::SimpleAtoi(index_text, &index) || index < 0 || index > size) {
    return absl::InvalidArgumentError(absl::StrCat(origin, ": '", path, "' is a list; give ", path,
                                                   ".0 to ", path, ".", size, " and a key of it"));
  }
  if (index == size) return reflection.AddMessage(message, &field);
  return reflection.MutableRepeatedMessage(message, &field, index);
}

// What is wrong at line `line` (from 0) of a YAML text that the library refused with `message`.
std::string YamlError(const std::string& text, int line, const std::string& message) {
  const std::vector<absl::string_view> lines = absl::StrSplit(text, '\n');
  // The library may report the line after the one with the tab.
  for (int at : {line, line - 1}) {
    if (at < 0 || at >= static_cast<int>(lines.size())) continue;
    const absl::string_view indent = lines[at].substr(0, lines[at].find_first_not_of(" \t"));
    if (!absl::StrContains(indent, '\t')) continue;
    return absl::StrCat(at + 1, ": the line is indented with a tab; YAML takes spaces only");
  }
  return absl::StrCat(line + 1, ": ", message);
}

// The names of the files in a folder, sorted. A mounted ConfigMap has symbolic links to files.
std::vector<std::string> FilesIn(const std::string& folder) {
  constexpr size_t kMostNames = 8;
  std::vector<std::string> names;
  std::error_code error;
  for (auto it = fs::directory_iterator(folder, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    std::error_code ignored;
    if (it->is_regular_file(ignored)) names.push_back(it->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  if (names.size() > kMostNames) names.resize(kMostNames);
  return names;
}

// A folder is refused with the names of its files, one of which is likely meant.
absl::Status CheckIsNoFolder(const std::string& file) {
  std::error_code error;
  if (!fs::is_directory(file, error)) return absl::OkStatus();
  const std::vector<std::string> names = FilesIn(file);
  return absl::InvalidArgumentError(absl::StrCat(
      "--config: ", file, ": is a folder; give a YAML file",
      names.empty() ? ""
                    : absl::StrCat(", e.g. one of the folder's: ", absl::StrJoin(names, ", "))));
}

}  // namespace

absl::Status MergeYaml(const std::string& file, const std::string& text, v1::Config* config) {
  if (static_cast<int64_t>(text.size()) > kMaxFileBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, " is larger than 1MiB; is it the right file?"));
  }
  try {
    const YAML::Node root = YAML::Load(text);
    return YamlMerger(file).MergeMap(root, "", config);
  } catch (const YAML::Exception& e) {
    return absl::InvalidArgumentError(absl::StrCat(file, ":", YamlError(text, e.mark.line, e.msg)));
  }
}

absl::Status MergeYamlFile(const std::string& file, v1::Config* config) {
  RETURN_IF_ERROR(CheckIsNoFolder(file));
  const absl::StatusOr<std::string> text =
      ReadForeignFile(file, {.max_bytes = kMaxFileBytes, .roots = {}});
  if (!text.ok()) {
    return absl::Status(text.status().code(),
                        absl::StrCat("--config: ", text.status().message(), "; give a YAML file"));
  }
  return MergeYaml(file, *text, config);
}

absl::Status SetConfigValue(const std::string& origin, const std::string& path,
                            const std::string& value, v1::Config* config) {
  const std::vector<std::string> names = absl::StrSplit(path, '.');
  Message* message = config;
  std::string so_far;
  for (size_t i = 0; i < names.size(); ++i) {
    const Descriptor& descriptor = *message->GetDescriptor();
    const FieldDescriptor* field = descriptor.FindFieldByName(names[i]);
    if (field == nullptr) return UnknownKey(origin, so_far, descriptor, names[i]);
    so_far = JoinPath(so_far, names[i]);
    const bool is_last = i + 1 == names.size();
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
      if (!is_last) {
        return absl::InvalidArgumentError(absl::StrCat(origin, ": '", so_far, "' has no keys"));
      }
      if (field->is_repeated()) {  // appends to a list of texts
        message->GetReflection()->AddString(message, field, value);
        return absl::OkStatus();
      }
      return SetScalar(origin, so_far, *field, value, message);
    }
    if (is_last) break;
    if (field->is_repeated()) {
      ASSIGN_OR_RETURN(message, ListElement(origin, so_far, names[++i], *field, message));
    } else {
      message = message->GetReflection()->MutableMessage(message, field);
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat(origin, ": '", path, "' is not one value; name a key below it"));
}

}  // namespace tessera
