// Python's operators on values: arithmetic, comparison, membership. Integers have 64 bits; overflow
// is an error. Used by one rendering, on its thread.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/text/template/budget.h"
#include "server/text/template/value.h"

namespace tessera::jinja {

enum class BinaryOp : uint8_t { kAdd, kSub, kMul, kDiv, kFloorDiv, kMod, kPow };
enum class CompareOp : uint8_t { kEq, kNe, kLt, kLe, kGt, kGe, kIn, kNotIn };

absl::StatusOr<Value> Arithmetic(Budget& budget, BinaryOp op, const Value& left,
                                 const Value& right);
absl::StatusOr<Value> Negate(const Value& value);
absl::StatusOr<Value> Positive(const Value& value);

absl::StatusOr<bool> Compare(Budget& budget, CompareOp op, const Value& left, const Value& right);
absl::StatusOr<bool> Equals(Budget& budget, const Value& left, const Value& right);
// `left < right`; sorting uses this order.
absl::StatusOr<bool> LessThan(Budget& budget, const Value& left, const Value& right);
absl::StatusOr<bool> Contains(Budget& budget, const Value& container, const Value& item);

// Text with &, <, >, ' and " replaced by HTML's entities.
std::string EscapeHtml(absl::string_view text);

}  // namespace tessera::jinja
