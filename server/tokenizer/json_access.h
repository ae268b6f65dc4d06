// Checked reading of the JSON files of a tokenizer: nothing here throws, whatever the file holds,
// and errors name the place. Included only by the .cc files of this room that read files; any
// thread.
#pragma once

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tessera {

using Json = nlohmann::json;

// The bytes of a file; NOT_FOUND when there is none. Files above 512 MiB are refused.
absl::StatusOr<std::string> ReadTokenizerFile(const std::string& path);

// `name` is how errors call the document.
absl::StatusOr<Json> ParseJson(std::string_view text, const std::string& name);

// The member, or nullptr when `object` is not an object, lacks it or has null there.
const Json* FindMember(const Json& object, const char* key);

// Members that may be absent (or null); a value of another type is an error. `where` names the
// object.
absl::StatusOr<bool> BoolOr(const Json& object, const char* key, bool fallback,
                            const std::string& where);
absl::StatusOr<std::optional<std::string>> OptionalString(const Json& object, const char* key,
                                                          const std::string& where);
absl::StatusOr<int64_t> IntOr(const Json& object, const char* key, int64_t fallback,
                              const std::string& where);

// Members that must be there.
absl::StatusOr<std::string> RequiredString(const Json& object, const char* key,
                                           const std::string& where);
absl::StatusOr<int64_t> RequiredInt(const Json& object, const char* key, const std::string& where);
absl::StatusOr<const Json*> RequiredArray(const Json& object, const char* key,
                                          const std::string& where);
absl::StatusOr<const Json*> RequiredObject(const Json& object, const char* key,
                                           const std::string& where);

// The value as an integer, or an error for other types, fractions and numbers beyond 64 bits.
absl::StatusOr<int64_t> AsInt(const Json& value, const std::string& where);

}  // namespace tessera
