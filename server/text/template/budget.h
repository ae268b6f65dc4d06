// The limits of time and memory of one rendering. Templates and the text that they render are not
// trusted, so every operation that can run long or build large values charges the budget first. A
// hostile template then ends with a RESOURCE_EXHAUSTED error instead of blocking a thread or
// exhausting the memory. A budget belongs to one rendering and one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "server/text/template/value.h"

namespace tessera::jinja {

struct RenderLimits {
  // The size of the rendered prompt. Raise it only for prompts that are really longer.
  size_t max_output_bytes = size_t{64} << 20;
  // The total size of all values that the template builds, including values freed before the end.
  // Give a few times max_output_bytes.
  size_t max_built_bytes = size_t{1} << 30;
  // Units of work: an evaluated node costs kStepCost, a scanned or copied byte costs 1. The default
  // is a few seconds on one core.
  int64_t max_work = int64_t{1} << 31;
  // The depth of nested evaluations, including recursive macros. A level takes up to 2 KiB of
  // stack.
  int max_depth = 400;
};

template <typename... Parts>
absl::Status Error(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

class Budget final {
 public:
  static constexpr int64_t kStepCost = 32;

  explicit Budget(const RenderLimits& limits)
      : limits_(limits), built_left_(limits.max_built_bytes), work_left_(limits.max_work) {}

  const RenderLimits& limits() const { return limits_; }

  // Charges work in proportion to `cost` bytes. Called before the work.
  absl::Status Spend(size_t cost) {
    if (cost > static_cast<size_t>(work_left_)) {
      work_left_ = 0;
      return absl::ResourceExhaustedError(
          "the template works too long; it loops too often or over too much text");
    }
    work_left_ -= static_cast<int64_t>(cost);
    return absl::OkStatus();
  }

  // Charges a value of `bytes` bytes. Called before the value is built.
  absl::Status Build(size_t bytes) {
    if (bytes > built_left_ || bytes > limits_.max_output_bytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the template builds too much text (a value of ", bytes, " bytes)"));
    }
    built_left_ -= bytes;
    return Spend(bytes);
  }

 private:
  const RenderLimits limits_;
  size_t built_left_;
  int64_t work_left_;
};

// These charge the budget and build a value. A list, tuple or dict that nests too deep is an error.
absl::StatusOr<Value> MakeString(Budget& budget, std::string text);
absl::StatusOr<Value> MakeList(Budget& budget, std::vector<Value> items);
absl::StatusOr<Value> MakeTuple(Budget& budget, std::vector<Value> items);
absl::StatusOr<Value> MakeGenerator(Budget& budget, std::vector<Value> items);
absl::StatusOr<Value> MakeDict(Budget& budget, std::shared_ptr<Dict> dict);

}  // namespace tessera::jinja
