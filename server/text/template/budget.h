// What one rendering may spend. Templates come with models and render foreign text, so every
// operation that can run long or build much pays here first: a hostile template ends with a
// RESOURCE_EXHAUSTED error instead of a hang or a full memory. One budget belongs to one rendering
// and one thread.
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
  // The rendered prompt. Raise it only if prompts really are that long.
  size_t max_output_bytes = size_t{64} << 20;
  // Everything the template builds on its way, dead or alive. A few times max_output_bytes.
  size_t max_built_bytes = size_t{1} << 30;
  // Evaluated nodes count kStepCost, scanned or copied bytes 1. The default is a few seconds of a
  // core.
  int64_t max_work = int64_t{1} << 31;
  // Nested evaluations, so macros that call themselves too. Each takes up to 2 KiB of stack.
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

  // Before work in proportion to `cost` bytes.
  absl::Status Spend(size_t cost) {
    if (cost > static_cast<size_t>(work_left_)) {
      work_left_ = 0;
      return absl::ResourceExhaustedError(
          "the template works too long; it loops too often or over too much text");
    }
    work_left_ -= static_cast<int64_t>(cost);
    return absl::OkStatus();
  }

  // Before a value of `bytes` is built.
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

absl::StatusOr<Value> MakeString(Budget& budget, std::string text);
absl::StatusOr<Value> MakeList(Budget& budget, std::vector<Value> items);
absl::StatusOr<Value> MakeTuple(Budget& budget, std::vector<Value> items);
absl::StatusOr<Value> MakeGenerator(Budget& budget, std::vector<Value> items);
absl::StatusOr<Value> MakeDict(Budget& budget, std::shared_ptr<Dict> dict);

}  // namespace tessera::jinja
