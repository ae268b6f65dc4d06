// Access to attributes, elements and slices of values, iteration and length, as in the sandboxed
// environment of jinja2. An absent attribute or element is an undefined value, not an error. A
// method that would modify a list or a mapping is an undefined value too, so that calling it fails.
// Used by one rendering, on its thread.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/text/template/budget.h"
#include "server/text/template/value.h"

namespace tessera::jinja {

// `value.name`: the attribute or method `name` if there is one, else the element `name`.
absl::StatusOr<Value> GetAttribute(const Value& value, absl::string_view name);
// `value[key]`: the element `key` if there is one, else the attribute `key`.
absl::StatusOr<Value> GetItem(Budget& budget, const Value& value, const Value& key);
// `value[start:stop:step]`; an absent bound is passed as none.
absl::StatusOr<Value> GetSlice(Budget& budget, const Value& value, const Value& start,
                               const Value& stop, const Value& step);
// Follows a path, as in the `attribute` argument of filters: a string such as "a.b.0", or an int.
// An absent part gives `fallback` if that is not none, else an undefined value.
absl::StatusOr<Value> GetPath(Budget& budget, const Value& value, const Value& path,
                              const Value& fallback = Value::None());

bool IsIterable(const Value& value);
// Returns all elements. For an iterator, returns the remaining elements and exhausts the iterator.
absl::StatusOr<std::vector<Value>> Iterate(Budget& budget, const Value& value);
bool HasLength(const Value& value);
// Python's len().
absl::StatusOr<int64_t> Length(Budget& budget, const Value& value);

}  // namespace tessera::jinja
