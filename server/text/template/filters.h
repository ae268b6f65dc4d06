// The filters (`value | name(...)`) and tests (`value is name(...)`) of jinja2, with Hugging Face's
// `tojson`.
#pragma once

#include "absl/strings/string_view.h"
#include "server/text/template/callable.h"
#include "server/text/template/value.h"

namespace tessera::jinja {

// Null if there is no filter of that name. A filter's `self` is the value before the bar.
NativeFunction FindFilter(absl::string_view name);

// Null if there is no test of that name. A test gives a bool.
NativeFunction FindTest(absl::string_view name);

// The parts of the table of filters, by what they work on; each is null if it has no such filter.
NativeFunction FindTextFilter(absl::string_view name);
NativeFunction FindSequenceFilter(absl::string_view name);
NativeFunction FindSelectionFilter(absl::string_view name);
NativeFunction FindScalarFilter(absl::string_view name);

struct NamedFunction {
  absl::string_view name;
  NativeFunction native;
};

template <size_t kSize>
NativeFunction FindNamed(const NamedFunction (&table)[kSize], absl::string_view name) {
  for (const NamedFunction& entry : table) {
    if (entry.name == name) return entry.native;
  }
  return nullptr;
}

}  // namespace tessera::jinja
