// A JSON object of a model folder, whose values are read by key and checked against bounds. The
// first error is kept: a read that fails returns its fallback, and the caller asks status() once
// after all reads. Every message names the file, the key, the value and the supported values. The
// parsed document is hidden, so that JSON types stay in .cc files. A value type whose copies share
// the document and the error; one thread at a time.
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

class JsonFile final {
 public:
  // Whether errors show the values of the file. They are hidden in a file that a client of the
  // server named, because the file may be one that the client must not read.
  enum class Values { kShown, kHidden };

  // Errors call the text `name`, which is usually its path.
  static absl::StatusOr<JsonFile> Parse(const std::string& name, absl::string_view text,
                                        Values values = Values::kShown);
  static absl::StatusOr<JsonFile> Open(const std::string& path);

  // The first error of this object, of its copies and of the objects that Object() and Empty() made
  // from it.
  const absl::Status& status() const { return state_->status; }
  // Records the error "FILE: KEY is VALUE; MESSAGE", or "FILE: KEY has an unsupported value;
  // MESSAGE" if values are hidden.
  void Fail(absl::string_view key, absl::string_view message) const;

  // Whether the key is present and its value is not null.
  bool Has(absl::string_view key) const;
  // Whether the key is present and its value is null.
  bool IsNull(absl::string_view key) const;
  // Whether the value is absent, null, false, 0, "" or an empty list or object.
  bool IsOff(absl::string_view key) const;
  bool IsList(absl::string_view key) const;
  bool IsString(absl::string_view key) const;
  bool IsNumber(absl::string_view key) const;
  // An integer in [min, max]; a number without a fraction, such as 50.0, is one. An absent or null
  // value gives the fallback; without a fallback it is an error.
  int64_t Int(absl::string_view key, int64_t min, int64_t max,
              std::optional<int64_t> fallback = std::nullopt) const;
  double Number(absl::string_view key, double min, double max,
                std::optional<double> fallback = std::nullopt) const;
  bool Bool(absl::string_view key, bool fallback) const;
  std::string String(absl::string_view key, const std::string& fallback) const;
  // An integer or a list of integers. An absent or null value gives an empty list.
  std::vector<int64_t> IntOrList(absl::string_view key, int64_t min, int64_t max) const;
  // A list of strings. An absent or null value gives an empty list.
  std::vector<std::string> Strings(absl::string_view key) const;
  // The object that is the key's value; nullopt when the value is absent or null.
  std::optional<JsonFile> Object(absl::string_view key) const;
  // The object's keys, in alphabetical order.
  std::vector<std::string> Keys() const;
  // An empty object that stands for the absent object `key`: its errors name the key.
  JsonFile Empty(absl::string_view key) const;

 private:
  struct Document;  // holds the parsed JSON
  struct State {
    std::string name;
    Values values = Values::kShown;
    absl::Status status;
  };

  std::shared_ptr<const Document> document_;
  std::shared_ptr<State> state_;
  std::string path_;  // the object's place in the document: "" or "rope_scaling."
};

}  // namespace tessera
