// The methods of strings, mappings and sequences that a template may call. The tables are constant;
// any thread.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"
#include "server/text/template/callable.h"
#include "server/text/template/value.h"

namespace tessera::jinja {

enum class MethodKind : uint8_t {
  kAbsent,       // the type has no such attribute
  kCallable,     // `native` runs it
  kUnsafe,       // the method would modify the value or expose Python's internals
  kUnsupported,  // Python has the method, this interpreter does not
};

struct Method {
  MethodKind kind = MethodKind::kAbsent;
  NativeFunction native = nullptr;
};

Method FindMethod(const Value& value, absl::string_view name);
Method FindStringMethod(absl::string_view name);

// Implements Python's str.replace; count < 0 replaces all occurrences.
absl::StatusOr<std::string> ReplaceText(Budget& budget, absl::string_view text,
                                        absl::string_view old_text, absl::string_view new_text,
                                        int64_t count);
// Implements Python's ljust (<), rjust (>) and center (^). REQUIRES: `fill` is one code point.
absl::StatusOr<Value> MakePadded(Budget& budget, absl::string_view text, int64_t width,
                                 absl::string_view fill, char align);

}  // namespace tessera::jinja
