#include "server/tokenizer/json_access.h"

#include <filesystem>
#include <fstream>
#include <system_error>

#include "kernels/base/status.h"

namespace tessera {
namespace {

constexpr uintmax_t kMaxFileBytes = uintmax_t{512} << 20;

absl::Status WrongType(const std::string& where, const char* key, const char* wanted,
                       const Json* value) {
  return absl::InvalidArgumentError(
      where + ": '" + key + "' must be " + wanted +
      (value == nullptr ? ", but it is missing" : std::string(", not ") + value->type_name()));
}

}  // namespace

absl::StatusOr<std::string> ReadTokenizerFile(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    return absl::NotFoundError(path + " is not there");
  }
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (error) return absl::InvalidArgumentError(path + " cannot be read: " + error.message());
  if (size > kMaxFileBytes) {
    return absl::InvalidArgumentError(path + " has " + std::to_string(size) +
                                      " bytes, more than any tokenizer file needs");
  }
  std::string bytes(size, '\0');
  std::ifstream file(path, std::ios::binary);
  file.read(bytes.data(), static_cast<std::streamsize>(size));
  if (!file) return absl::InvalidArgumentError(path + " cannot be read");
  return bytes;
}

absl::StatusOr<Json> ParseJson(std::string_view text, const std::string& name) {
  Json document = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (document.is_discarded()) return absl::InvalidArgumentError(name + " is not valid JSON");
  if (!document.is_object()) return absl::InvalidArgumentError(name + " is not a JSON object");
  return document;
}

const Json* FindMember(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) return nullptr;
  return &*it;
}

absl::StatusOr<bool> BoolOr(const Json& object, const char* key, bool fallback,
                            const std::string& where) {
  const Json* value = FindMember(object, key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) return WrongType(where, key, "true or false", value);
  return value->get_ref<const Json::boolean_t&>();
}

absl::StatusOr<std::optional<std::string>> OptionalString(const Json& object, const char* key,
                                                          const std::string& where) {
  const Json* value = FindMember(object, key);
  if (value == nullptr) return std::optional<std::string>();
  if (!value->is_string()) return WrongType(where, key, "a string", value);
  return std::optional<std::string>(value->get_ref<const std::string&>());
}

absl::StatusOr<int64_t> IntOr(const Json& object, const char* key, int64_t fallback,
                              const std::string& where) {
  const Json* value = FindMember(object, key);
  if (value == nullptr) return fallback;
  return AsInt(*value, where + "." + key);
}

absl::StatusOr<std::string> RequiredString(const Json& object, const char* key,
                                           const std::string& where) {
  ASSIGN_OR_RETURN(std::optional<std::string> value, OptionalString(object, key, where));
  if (!value.has_value()) return WrongType(where, key, "a string", nullptr);
  return *std::move(value);
}

absl::StatusOr<int64_t> RequiredInt(const Json& object, const char* key, const std::string& where) {
  const Json* value = FindMember(object, key);
  if (value == nullptr) return WrongType(where, key, "an integer", nullptr);
  return AsInt(*value, where + "." + key);
}

absl::StatusOr<const Json*> RequiredArray(const Json& object, const char* key,
                                          const std::string& where) {
  const Json* value = FindMember(object, key);
  if (value == nullptr || !value->is_array()) return WrongType(where, key, "an array", value);
  return value;
}

absl::StatusOr<const Json*> RequiredObject(const Json& object, const char* key,
                                           const std::string& where) {
  const Json* value = FindMember(object, key);
  if (value == nullptr || !value->is_object()) return WrongType(where, key, "an object", value);
  return value;
}

absl::StatusOr<int64_t> AsInt(const Json& value, const std::string& where) {
  if (value.is_number_unsigned()) {
    const uint64_t number = value.get_ref<const Json::number_unsigned_t&>();
    if (number <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return static_cast<int64_t>(number);
    }
  } else if (value.is_number_integer()) {
    return value.get_ref<const Json::number_integer_t&>();
  }
  return absl::InvalidArgumentError(where + " must be an integer of at most 64 bits");
}

}  // namespace tessera
