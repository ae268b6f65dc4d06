// The filters (`value | name(...)`) and tests (`value is name(...)`) of jinja2, and Hugging Face's
// `tojson`. The tables are constant; any thread.
#pragma once

#include "absl/strings/string_view.h"
#include "server/text/template/callable.h"
#include "server/text/template/value.h"

namespace tessera::jinja {

// Returns null if no filter has this name. A filter's `self` is the value before the bar.
NativeFunction FindFilter(absl::string_view name);

// Returns null if no test has this name. A test returns a bool.
NativeFunction FindTest(absl::string_view name);

// The parts of the table of filters, by the kind of values they handle. Each function returns null
// if its part has no filter of this name.
NativeFunction FindTextFilter(absl::string_view name);
NativeFunction FindHtmlFilter(absl::string_view name);
NativeFunction FindLayoutFilter(absl::string_view name);
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
