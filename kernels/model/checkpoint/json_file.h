// A JSON object of a model folder, read key by key with bounds. Errors stick: the first one is
// kept, later reads answer with their fallback, and the caller asks status() once at the end. Every
// message names the file, the key, the value and what is supported. The parsed document is hidden,
// so that JSON stays in .cc files. A value type: copies share the document.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tessera {

inline constexpr int64_t kMaxJsonBytes = int64_t{16} << 20;

// The whole file. NOT_FOUND when it does not exist, INVALID_ARGUMENT when it is larger than
// max_bytes.
absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t max_bytes);

class JsonFile final {
 public:
  // `name` is how errors call the text, usually its path.
  static absl::StatusOr<JsonFile> Parse(const std::string& name, absl::string_view text);
  static absl::StatusOr<JsonFile> Open(const std::string& path);

  // The first error of this object and of those that Object() made of it.
  const absl::Status& status() const { return state_->status; }
  // Records an error about `key`: "FILE: KEY is VALUE; MESSAGE".
  void Fail(absl::string_view key, absl::string_view message) const;

  // Present and not null.
  bool Has(absl::string_view key) const;
  // Present and null.
  bool IsNull(absl::string_view key) const;
  // Absent, null, false, 0, "" or an empty list or object.
  bool IsOff(absl::string_view key) const;
  bool IsList(absl::string_view key) const;
  // An integer in [min, max]. Absent or null: the fallback, or an error when there is none.
  int64_t Int(absl::string_view key, int64_t min, int64_t max,
              std::optional<int64_t> fallback = std::nullopt) const;
  double Number(absl::string_view key, double min, double max,
                std::optional<double> fallback = std::nullopt) const;
  bool Bool(absl::string_view key, bool fallback) const;
  std::string String(absl::string_view key, const std::string& fallback) const;
  // An integer or a list of integers; absent or null: empty.
  std::vector<int64_t> IntOrList(absl::string_view key, int64_t min, int64_t max) const;
  // Absent or null: empty.
  std::vector<std::string> Strings(absl::string_view key) const;
  // An object inside; nullopt when absent or null.
  std::optional<JsonFile> Object(absl::string_view key) const;
  // The keys in order.
  std::vector<std::string> Keys() const;
  // The inner object `key` as if it were there and empty.
  JsonFile Empty(absl::string_view key) const;

 private:
  struct Document;  // holds the parsed JSON
  struct State {
    std::string name;
    absl::Status status;
  };

  std::shared_ptr<const Document> document_;
  std::shared_ptr<State> state_;
  std::string path_;  // of this object inside the document, "" or "rope_scaling."
};

}  // namespace tessera
