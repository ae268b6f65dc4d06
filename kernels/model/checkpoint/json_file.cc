#include "kernels/model/checkpoint/json_file.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/foreign_file.h"
#include "kernels/base/status.h"

namespace tessera {
namespace {

constexpr size_t kMaxShownBytes = 80;
constexpr int kMaxDepth = 32;

using Json = nlohmann::json;

// The text of a value in an error message. Bytes outside ASCII are escaped, and long values are
// cut.
std::string Show(const Json& value) {
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
  if (text.size() > kMaxShownBytes) text = text.substr(0, kMaxShownBytes) + "...";
  return text;
}

// A key in an error message. Control characters are escaped, and long keys are cut.
std::string ShowKey(absl::string_view key) {
  std::string text = absl::Utf8SafeCHexEscape(key.substr(0, kMaxShownBytes));
  if (key.size() > kMaxShownBytes) text += "...";
  return text;
}

// JSON has one type of number, so 50.0 is the integer 50.
bool InRange(const Json& value, int64_t min, int64_t max) {
  if (value.is_number_float()) {
    constexpr double kMaxExact = 9007199254740992.0;  // 2^53; larger floats skip integers
    const double number = value.get<double>();
    return std::abs(number) <= kMaxExact && std::trunc(number) == number &&
           number >= static_cast<double>(min) && number <= static_cast<double>(max);
  }
  if (value.is_number_unsigned()) {
    return max >= 0 && value.get<uint64_t>() <= static_cast<uint64_t>(max) &&
           (min <= 0 || value.get<uint64_t>() >= static_cast<uint64_t>(min));
  }
  return value.is_number_integer() && value.get<int64_t>() >= min && value.get<int64_t>() <= max;
}

}  // namespace

struct JsonFile::Document {
  std::shared_ptr<const Json> root;  // keeps `object` alive
  const Json* object = nullptr;

  // The key's value; nullptr when the key is absent or its value is null.
  const Json* Find(absl::string_view key) const {
    const auto it = object->find(std::string(key));
    return it == object->end() || it->is_null() ? nullptr : &*it;
  }
};

absl::StatusOr<JsonFile> JsonFile::Parse(const std::string& name, absl::string_view text,
                                         Values values) {
  // Printing and copying a value are recursive, so the nesting depth is bounded here.
  bool too_deep = false;
  const auto check_depth = [&too_deep](int depth, Json::parse_event_t, const Json&) {
    too_deep = too_deep || depth > kMaxDepth;
    return !too_deep;
  };
  auto root = std::make_shared<const Json>(
      Json::parse(text.begin(), text.end(), check_depth, /*allow_exceptions=*/false));
  if (too_deep) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": lists and objects nest deeper than ", kMaxDepth));
  }
  if (root->is_discarded()) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": not valid JSON"));
  }
  if (!root->is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": is a JSON ", root->type_name(), "; must be an object"));
  }
  JsonFile file;
  file.document_ = std::make_shared<const Document>(Document{root, root.get()});
  file.state_ = std::make_shared<State>(State{name, values, absl::OkStatus()});
  return file;
}

absl::StatusOr<JsonFile> JsonFile::Open(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text,
                   ReadForeignFile(path, {.max_bytes = kMaxJsonBytes, .roots = {}}));
  return Parse(path, text);
}

void JsonFile::Fail(absl::string_view key, absl::string_view message) const {
  if (!state_->status.ok()) return;
  const Json* value = document_->Find(key);
  const std::string is = value == nullptr                    ? "is missing"
                         : state_->values == Values::kHidden ? "has an unsupported value"
                                                             : absl::StrCat("is ", Show(*value));
  state_->status = absl::InvalidArgumentError(
      absl::StrCat(state_->name, ": ", path_, ShowKey(key), " ", is, "; ", message));
}

bool JsonFile::Has(absl::string_view key) const { return document_->Find(key) != nullptr; }

bool JsonFile::IsNull(absl::string_view key) const {
  const auto it = document_->object->find(std::string(key));
  return it != document_->object->end() && it->is_null();
}

bool JsonFile::IsOff(absl::string_view key) const {
  const Json* const value = document_->Find(key);
  if (value == nullptr) return true;
  if (value->is_boolean()) return !value->get<bool>();
  if (value->is_number()) return value->get<double>() == 0.0;
  if (value->is_string()) return value->get_ref<const std::string&>().empty();
  return value->empty();
}

bool JsonFile::IsList(absl::string_view key) const {
  const Json* const value = document_->Find(key);
  return value != nullptr && value->is_array();
}

bool JsonFile::IsString(absl::string_view key) const {
  const Json* const value = document_->Find(key);
  return value != nullptr && value->is_string();
}

bool JsonFile::IsNumber(absl::string_view key) const {
  const Json* const value = document_->Find(key);
  return value != nullptr && value->is_number();
}

int64_t JsonFile::Int(absl::string_view key, int64_t min, int64_t max,
                      std::optional<int64_t> fallback) const {
  const Json* value = document_->Find(key);
  if (value == nullptr && fallback.has_value()) return *fallback;
  if (value != nullptr && InRange(*value, min, max)) return value->get<int64_t>();
  Fail(key, absl::StrCat("must be an integer from ", min, " to ", max));
  return fallback.value_or(min);
}

double JsonFile::Number(absl::string_view key, double min, double max,
                        std::optional<double> fallback) const {
  const Json* value = document_->Find(key);
  if (value == nullptr && fallback.has_value()) return *fallback;
  if (value != nullptr && value->is_number()) {
    const double number = value->get<double>();
    if (std::isfinite(number) && number >= min && number <= max) return number;
  }
  Fail(key, absl::StrCat("must be a number from ", min, " to ", max));
  return fallback.value_or(min);
}

bool JsonFile::Bool(absl::string_view key, bool fallback) const {
  const Json* value = document_->Find(key);
  if (value == nullptr) return fallback;
  if (value->is_boolean()) return value->get<bool>();
  Fail(key, "must be true or false");
  return fallback;
}

std::string JsonFile::String(absl::string_view key, const std::string& fallback) const {
  const Json* value = document_->Find(key);
  if (value == nullptr) return fallback;
  if (value->is_string()) return value->get<std::string>();
  Fail(key, "must be a string");
  return fallback;
}

std::vector<int64_t> JsonFile::IntOrList(absl::string_view key, int64_t min, int64_t max) const {
  const Json* value = document_->Find(key);
  if (value == nullptr) return {};
  std::vector<int64_t> numbers;
  const Json list = value->is_array() ? *value : Json::array({*value});
  for (const Json& element : list) {
    if (!InRange(element, min, max)) {
      Fail(key, absl::StrCat("must be an integer or a list of integers from ", min, " to ", max));
      return {};
    }
    numbers.push_back(element.get<int64_t>());
  }
  return numbers;
}

std::vector<std::string> JsonFile::Strings(absl::string_view key) const {
  const Json* value = document_->Find(key);
  if (value == nullptr) return {};
  std::vector<std::string> strings;
  if (value->is_array()) {
    for (const Json& element : *value) {
      if (element.is_string()) strings.push_back(element.get<std::string>());
    }
  }
  if (value->is_array() && strings.size() == value->size()) return strings;
  Fail(key, "must be a list of strings");
  return {};
}

std::optional<JsonFile> JsonFile::Object(absl::string_view key) const {
  const Json* value = document_->Find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_object()) {
    Fail(key, "must be an object");
    return std::nullopt;
  }
  JsonFile inner = *this;
  inner.document_ = std::make_shared<const Document>(Document{document_->root, value});
  inner.path_ = absl::StrCat(path_, key, ".");
  return inner;
}

std::vector<std::string> JsonFile::Keys() const {
  std::vector<std::string> keys;
  for (const auto& item : document_->object->items()) keys.push_back(item.key());
  return keys;
}

JsonFile JsonFile::Empty(absl::string_view key) const {
  const auto root = std::make_shared<const Json>(Json::object());
  JsonFile inner = *this;
  inner.document_ = std::make_shared<const Document>(Document{root, root.get()});
  inner.path_ = absl::StrCat(path_, key, ".");
  return inner;
}

}  // namespace tessera
