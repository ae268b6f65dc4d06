#include "server/text/template/budget.h"

#include <time.h>

#include <algorithm>

#include "kernels/base/status.h"

namespace tessera::jinja {
namespace {

// The work between two readings of the clock: about 2,000 evaluated nodes, less than a millisecond.
constexpr size_t kSliceWork = size_t{1} << 16;

absl::Duration ThreadTime() {
  timespec now = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return absl::DurationFromTimespec(now);
}

absl::StatusOr<Value> Checked(Budget& budget, size_t num_items, Value value) {
  RETURN_IF_ERROR(budget.Build((num_items + 1) * sizeof(Value)));
  if (value.depth() > kMaxValueDepth) {
    return Error("a value nests deeper than ", kMaxValueDepth, " lists or mappings");
  }
  return value;
}

}  // namespace

Budget::Budget(const RenderLimits& limits, uint64_t seed)
    : limits_(limits),
      built_left_(limits.max_built_bytes),
      work_left_(static_cast<size_t>(limits.max_work)),
      end_(ThreadTime() + limits.max_time),
      random_state_(seed) {}

absl::Status Budget::StartSlice(size_t cost) {
  const size_t left = work_left_ + slice_left_;
  work_left_ = left > cost ? left - cost : 0;
  slice_left_ = std::min(work_left_, kSliceWork);
  work_left_ -= slice_left_;
  if (cost > left) {
    return absl::ResourceExhaustedError(
        "the template works too long; it loops too often or over too much text");
  }
  if (ThreadTime() <= end_) return absl::OkStatus();
  return absl::DeadlineExceededError(absl::StrCat("the template works too long (more than ",
                                                  absl::ToInt64Milliseconds(limits_.max_time),
                                                  " ms of processor time)"));
}

// SplitMix64. The remainder is uneven by less than bound / 2^64.
uint64_t Budget::Random(uint64_t bound) {
  random_state_ += 0x9E3779B97F4A7C15;
  uint64_t mixed = random_state_;
  mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9;
  mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB;
  return (mixed ^ (mixed >> 31)) % bound;
}

absl::Status SpendOnKey(Budget& budget, const Value& key) {
  if (key.is_string()) return budget.Spend(key.text().size());
  if (!key.Is(Kind::kTuple)) return absl::OkStatus();
  for (const Value& item : key.items()) {
    RETURN_IF_ERROR(budget.Spend(Budget::kStepCost));
    RETURN_IF_ERROR(SpendOnKey(budget, item));
  }
  return absl::OkStatus();
}

absl::StatusOr<Value> MakeString(Budget& budget, std::string text) {
  RETURN_IF_ERROR(budget.Build(text.size() + sizeof(Value)));
  return Value::String(std::move(text));
}

absl::StatusOr<Value> MakeList(Budget& budget, std::vector<Value> items) {
  const size_t num_items = items.size();
  return Checked(budget, num_items, Value::List(std::move(items)));
}

absl::StatusOr<Value> MakeTuple(Budget& budget, std::vector<Value> items) {
  const size_t num_items = items.size();
  return Checked(budget, num_items, Value::Tuple(std::move(items)));
}

absl::StatusOr<Value> MakeGenerator(Budget& budget, std::vector<Value> items) {
  const size_t num_items = items.size();
  return Checked(budget, num_items, Value::Generator(std::move(items)));
}

absl::StatusOr<Value> MakeDict(Budget& budget, std::shared_ptr<Dict> dict) {
  const size_t num_items = 2 * dict->size();
  return Checked(budget, num_items, Value::FromDict(std::move(dict)));
}

}  // namespace tessera::jinja
