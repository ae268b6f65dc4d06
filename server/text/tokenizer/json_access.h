// Parses the JSON files of a tokenizer into a plain tree and reads the tree with checks. No
// function throws, whatever the file contains, and errors name the place in the file. Used while
// tokenizers load; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"

namespace tessera {

struct JsonMember;

// A JSON value. The parser bounds the nesting, so that a tree can be walked by recursion.
class Json final {
 public:
  using Array = std::vector<Json>;
  using Object = std::vector<JsonMember>;  // members in the order of the file
  using Value = std::variant<std::monostate, bool, int64_t, double, std::string, Array, Object>;

  Json();
  explicit Json(Value value);
  Json(Json&&) noexcept;
  Json& operator=(Json&&) noexcept;
  ~Json();

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  bool is_bool() const { return std::holds_alternative<bool>(value_); }
  bool is_int() const { return std::holds_alternative<int64_t>(value_); }
  bool is_double() const { return std::holds_alternative<double>(value_); }
  bool is_string() const { return std::holds_alternative<std::string>(value_); }
  bool is_array() const { return std::holds_alternative<Array>(value_); }
  bool is_object() const { return std::holds_alternative<Object>(value_); }
  const char* type_name() const;

  // REQUIRES for the accessors below: the value has the accessor's type.
  bool boolean() const { return *std::get_if<bool>(&value_); }
  int64_t integer() const { return *std::get_if<int64_t>(&value_); }
  double number() const { return *std::get_if<double>(&value_); }
  const std::string& string() const { return *std::get_if<std::string>(&value_); }
  const Array& array() const { return *std::get_if<Array>(&value_); }
  const Object& object() const { return *std::get_if<Object>(&value_); }
  Array* mutable_array() { return std::get_if<Array>(&value_); }
  Object* mutable_object() { return std::get_if<Object>(&value_); }

 private:
  Value value_;
};

struct JsonMember {
  std::string key;
  Json value;
};

// Returns the bytes of a file as ReadForeignFile does (kernels/base/foreign_file.h); of at most 512
// MiB. NOT_FOUND: the file does not exist.
absl::StatusOr<std::string> ReadTokenizerFile(const std::string& path);

// Parses a document. Errors call the document `name`.
absl::StatusOr<Json> ParseJson(std::string_view text, const std::string& name);

// Returns the member `key`, or nullptr when `object` is not an object, has no such member, or the
// member is null.
const Json* FindMember(const Json& object, const char* key);

// These read a member that may be absent or null; a value of another type is an error. Errors call
// the object `where`.
absl::StatusOr<bool> BoolOr(const Json& object, const char* key, bool fallback,
                            const std::string& where);
absl::StatusOr<std::optional<std::string>> OptionalString(const Json& object, const char* key,
                                                          const std::string& where);
absl::StatusOr<int64_t> IntOr(const Json& object, const char* key, int64_t fallback,
                              const std::string& where);

// These read a member that must be present.
absl::StatusOr<std::string> RequiredString(const Json& object, const char* key,
                                           const std::string& where);
absl::StatusOr<int64_t> RequiredInt(const Json& object, const char* key, const std::string& where);
absl::StatusOr<const Json*> RequiredArray(const Json& object, const char* key,
                                          const std::string& where);
absl::StatusOr<const Json*> RequiredObject(const Json& object, const char* key,
                                           const std::string& where);

// Returns the value as an integer. Other types, fractions and numbers beyond 64 bits are errors.
absl::StatusOr<int64_t> AsInt(const Json& value, const std::string& where);

}  // namespace tessera
