// Reaching into values: attributes, elements, slices, iteration and length, as the sandboxed
// environment of jinja2 allows it. What is absent is an undefined value, not an error; what would
// modify a list or a mapping is undefined too and fails when it is called.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/text/template/budget.h"
#include "server/text/template/value.h"

namespace tessera::jinja {

// `value.name`: an attribute or method if there is one, else the element of that name.
absl::StatusOr<Value> GetAttribute(const Value& value, absl::string_view name);
// `value[key]`: an element if there is one, else the attribute of that name.
absl::StatusOr<Value> GetItem(Budget& budget, const Value& value, const Value& key);
// `value[start:stop:step]`; none stands for an absent bound.
absl::StatusOr<Value> GetSlice(Budget& budget, const Value& value, const Value& start,
                               const Value& stop, const Value& step);
// `a.b.0` as the filters' `attribute` argument spells a path; an int or a string. A part that is
// absent is `fallback`, unless that is none.
absl::StatusOr<Value> GetPath(Budget& budget, const Value& value, const Value& path,
                              const Value& fallback = Value::None());

bool IsIterable(const Value& value);
// All the elements; of an iterator those that are left, which are then used up.
absl::StatusOr<std::vector<Value>> Iterate(Budget& budget, const Value& value);
bool HasLength(const Value& value);
// Python's len().
absl::StatusOr<int64_t> Length(Budget& budget, const Value& value);

}  // namespace tessera::jinja
