#include "server/text/tokenizer/json_access.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "kernels/base/foreign_file.h"
#include "kernels/base/status.h"

namespace tessera {
namespace {

constexpr int64_t kMaxFileBytes = int64_t{512} << 20;
constexpr size_t kMaxNesting = 100;

// Receives the events of nlohmann's SAX parser and builds the tree. The SAX interface prescribes
// the names of the methods.
class TreeBuilder {  // NOLINTBEGIN(readability-identifier-naming)
 public:
  bool null() { return Put(Json()); }
  bool boolean(bool value) { return Put(Json(value)); }
  bool number_integer(int64_t value) { return Put(Json(value)); }
  bool number_unsigned(uint64_t value) {
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return Put(Json(static_cast<double>(value)));
    }
    return Put(Json(static_cast<int64_t>(value)));
  }
  bool number_float(double value, const std::string&) { return Put(Json(value)); }
  bool string(std::string& value) { return Put(Json(std::move(value))); }
  bool binary(nlohmann::json::binary_t&) { return false; }
  bool start_object(size_t) { return Open(Json(Json::Object())); }
  bool key(std::string& name) {
    open_.back()->mutable_object()->push_back({std::move(name), Json()});
    return true;
  }
  bool end_object() { return Close(); }
  bool start_array(size_t) { return Open(Json(Json::Array())); }
  bool end_array() { return Close(); }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) { return false; }
  // NOLINTEND(readability-identifier-naming)

  Json Take() { return std::move(root_); }

 private:
  // Returns the node that receives the next value.
  Json* Place() {
    if (open_.empty()) return &root_;
    if (open_.back()->is_object()) return &open_.back()->mutable_object()->back().value;
    return &open_.back()->mutable_array()->emplace_back();
  }
  bool Put(Json value) {
    *Place() = std::move(value);
    return true;
  }
  bool Open(Json value) {
    if (open_.size() >= kMaxNesting) return false;
    Json* place = Place();
    *place = std::move(value);
    open_.push_back(place);
    return true;
  }
  bool Close() {
    open_.pop_back();
    return true;
  }

  Json root_;
  // The open arrays and objects. The pointers stay valid: a parent does not grow while its child is
  // open.
  std::vector<Json*> open_;
};

absl::Status WrongType(const std::string& where, const char* key, const char* wanted,
                       const Json* value) {
  return absl::InvalidArgumentError(
      where + ": '" + key + "' must be " + wanted +
      (value == nullptr ? ", but it is missing" : std::string(", not ") + value->type_name()));
}

}  // namespace

Json::Json() = default;
Json::Json(Value value) : value_(std::move(value)) {}
Json::Json(Json&&) noexcept = default;
Json& Json::operator=(Json&&) noexcept = default;
Json::~Json() = default;

const char* Json::type_name() const {
  constexpr const char* kNames[] = {"null",     "a boolean", "an integer", "a number",
                                    "a string", "an array",  "an object"};
  return kNames[value_.index()];
}

absl::StatusOr<std::string> ReadTokenizerFile(const std::string& path) {
  return ReadForeignFile(path, {.max_bytes = kMaxFileBytes, .roots = {}});
}

absl::StatusOr<Json> ParseJson(std::string_view text, const std::string& name) {
  TreeBuilder builder;
  if (!nlohmann::json::sax_parse(text, &builder)) {
    return absl::InvalidArgumentError(name + " is not valid JSON, or nested too deeply");
  }
  Json document = builder.Take();
  if (!document.is_object()) return absl::InvalidArgumentError(name + " is not a JSON object");
  return document;
}

const Json* FindMember(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const Json::Object& members = object.object();
  for (auto member = members.rbegin(); member != members.rend(); ++member) {
    if (member->key == key) return member->value.is_null() ? nullptr : &member->value;
  }
  return nullptr;
}

absl::StatusOr<bool> BoolOr(const Json& object, const char* key, bool fallback,
                            const std::string& where) {
  const Json* value = FindMember(object, key);
  if (value == nullptr) return fallback;
  if (!value->is_bool()) return WrongType(where, key, "true or false", value);
  return value->boolean();
}

absl::StatusOr<std::optional<std::string>> OptionalString(const Json& object, const char* key,
                                                          const std::string& where) {
  const Json* value = FindMember(object, key);
  if (value == nullptr) return std::optional<std::string>();
  if (!value->is_string()) return WrongType(where, key, "a string", value);
  return std::optional<std::string>(value->string());
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
  if (value.is_int()) return value.integer();
  return absl::InvalidArgumentError(where + " must be an integer of at most 64 bits");
}

}  // namespace tessera
