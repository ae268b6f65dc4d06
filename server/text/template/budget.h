// The limits of time and memory of one rendering. Templates and the text that they render are not
// trusted, so every operation that can run long or build large values charges the budget first. A
// hostile template then ends with a RESOURCE_EXHAUSTED or DEADLINE_EXCEEDED error instead of
// blocking a thread or exhausting the memory. A budget belongs to one rendering and one thread.
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
#include "absl/time/time.h"
#include "server/text/template/value.h"

namespace tessera::jinja {

struct RenderLimits {
  // The size of the rendered prompt. Raise it only for prompts that are really longer.
  size_t max_output_bytes = size_t{64} << 20;
  // The total size of all values that the template builds, including values freed before the end.
  // Give a few times max_output_bytes.
  size_t max_built_bytes = size_t{1} << 30;
  // Units of work: an evaluated node costs kStepCost, a scanned or copied byte costs 1. The default
  // is a few seconds on one core; max_time usually ends a rendering before.
  int64_t max_work = int64_t{1} << 31;
  // The processor time of the rendering's thread. The templates of real models take a few
  // milliseconds even for long chats, so raise it only for a template that needs more.
  absl::Duration max_time = absl::Milliseconds(250);
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

  // The time of max_time starts here. `seed` determines the numbers of Random.
  explicit Budget(const RenderLimits& limits, uint64_t seed = 0);

  const RenderLimits& limits() const { return limits_; }

  // Charges work in proportion to `cost` bytes. Called before the work.
  absl::Status Spend(size_t cost) {
    if (cost > slice_left_) return StartSlice(cost);
    slice_left_ -= cost;
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

  // Draws a number below `bound`, for the filter `random`. REQUIRES: bound > 0.
  uint64_t Random(uint64_t bound);

 private:
  // Charges work that the current slice does not cover, checks the time and starts a new slice.
  // DEADLINE_EXCEEDED if the time is over.
  absl::Status StartSlice(size_t cost);

  const RenderLimits limits_;
  size_t built_left_;
  // Work is taken from `work_left_` in slices, so that the clock is read once in a slice.
  size_t work_left_;
  size_t slice_left_ = 0;
  const absl::Duration end_;  // in the processor time of the thread
  uint64_t random_state_;
};

// Charges a search or an insertion of the key in a dict.
absl::Status SpendOnKey(Budget& budget, const Value& key);

// These charge the budget and build a value. A list, tuple or dict that nests too deep is an error.
absl::StatusOr<Value> MakeString(Budget& budget, std::string text);
absl::StatusOr<Value> MakeList(Budget& budget, std::vector<Value> items);
absl::StatusOr<Value> MakeTuple(Budget& budget, std::vector<Value> items);
absl::StatusOr<Value> MakeGenerator(Budget& budget, std::vector<Value> items);
absl::StatusOr<Value> MakeDict(Budget& budget, std::shared_ptr<Dict> dict);

}  // namespace tessera::jinja
