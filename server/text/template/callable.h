// The callable values of a template: methods, global functions, macros and recursive loops. A
// native function receives its arguments as written and binds them to its parameters by Bind, which
// follows Python's rules and error texts. Used by one rendering, on its thread.
#pragma once

#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/text/template/budget.h"
#include "server/text/template/value.h"

namespace tessera::jinja {

struct CallArgs {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  const Value* FindNamed(absl::string_view name) const {
    for (const auto& [key, value] : named) {
      if (key == name) return &value;
    }
    return nullptr;
  }
};

// `self` is the object of a method or the input of a filter; it is undefined for a global function.
using NativeFunction = absl::StatusOr<Value> (*)(Budget& budget, const Value& self,
                                                 const CallArgs& args);

struct Function : Object {
  std::string name;
  Value self;
  NativeFunction native = nullptr;
};

struct ForStatement;
struct MacroStatement;
struct Scope;

// A `{% macro %}`, or the body of a `{% call %}` block, with the scope of its definition.
struct Macro : Object {
  std::string name;
  const MacroStatement* statement = nullptr;
  std::shared_ptr<Scope> scope;
};

// The `loop` variable of a `for` statement. It is callable if the loop is recursive.
struct Loop : Object {
  std::vector<Value> items;  // emptied when the loop ends
  size_t length = 0;
  size_t index0 = 0;
  int64_t depth0 = 0;
  bool is_finished = false;
  bool was_asked_changed = false;
  Value last_asked;                         // tuple of the arguments of the last loop.changed(...)
  const ForStatement* recursive = nullptr;  // the statement of a recursive loop, else null
  std::shared_ptr<Scope> scope;             // the scope around a recursive loop
};

// The arguments of a call in the order of the parameters. An argument may be absent.
class BoundArgs final {
 public:
  bool Has(size_t index) const { return slots_[index] != nullptr; }
  const Value& operator[](size_t index) const { return *slots_[index]; }
  // Returns the argument, or `fallback` if it is absent.
  Value Get(size_t index, const Value& fallback) const {
    return Has(index) ? *slots_[index] : fallback;
  }
  bool GetBool(size_t index, bool fallback) const {
    return Has(index) ? slots_[index]->Truthy() : fallback;
  }
  // Returns the argument, or `fallback` if it is absent. If the argument is not an integer, the
  // error names the parameter.
  absl::StatusOr<int64_t> GetInt(size_t index, int64_t fallback) const;
  // Returns the argument, or `fallback` if it is absent. If the argument is not a string, the error
  // names the parameter. The view is valid as long as the arguments.
  absl::StatusOr<absl::string_view> GetText(size_t index, absl::string_view fallback) const;

 private:
  friend absl::StatusOr<BoundArgs> Bind(absl::string_view, const CallArgs&, size_t,
                                        std::initializer_list<absl::string_view>);
  std::string function_;
  std::vector<std::string> names_;
  std::vector<const Value*> slots_;  // by parameter; null: absent
};

// Binds `args` to the parameters. The first `num_required` parameters must be given. REQUIRES:
// `args` outlives the result.
absl::StatusOr<BoundArgs> Bind(absl::string_view function, const CallArgs& args,
                               size_t num_required,
                               std::initializer_list<absl::string_view> parameters);

}  // namespace tessera::jinja
