// What a template can call besides its own macros: methods of values and global functions. A native
// function gets its arguments as given and binds them to its parameters by Bind, which speaks
// Python's rules and errors.
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

// `self` is the object of a method, the input of a filter; undefined for a global function.
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

// A `{% macro %}`, or the body of a `{% call %}` block, with the scope that it was defined in.
struct Macro : Object {
  std::string name;
  const MacroStatement* statement = nullptr;
  std::shared_ptr<Scope> scope;
};

// The `loop` variable of a running `for`. Callable if the loop is recursive.
struct Loop : Object {
  std::vector<Value> items;  // emptied when the loop ends
  size_t length = 0;
  size_t index0 = 0;
  int64_t depth0 = 0;
  bool is_finished = false;
  bool was_asked_changed = false;
  Value last_asked;  // the arguments of the last loop.changed(...), a tuple
  const ForStatement* recursive = nullptr;
  std::shared_ptr<Scope> scope;  // around a recursive loop
};

// The arguments in the order of their parameters; null where the caller gave none.
class BoundArgs final {
 public:
  bool Has(size_t index) const { return slots_[index] != nullptr; }
  const Value& operator[](size_t index) const { return *slots_[index]; }
  // `fallback` where absent.
  Value Get(size_t index, const Value& fallback) const {
    return Has(index) ? *slots_[index] : fallback;
  }
  bool GetBool(size_t index, bool fallback) const {
    return Has(index) ? slots_[index]->Truthy() : fallback;
  }
  // An error that names the parameter if the argument is no integer.
  absl::StatusOr<int64_t> GetInt(size_t index, int64_t fallback) const;
  // An error that names the parameter if the argument is no string. The view lives as long as the
  // arguments.
  absl::StatusOr<absl::string_view> GetText(size_t index, absl::string_view fallback) const;

 private:
  friend absl::StatusOr<BoundArgs> Bind(absl::string_view, const CallArgs&, size_t,
                                        std::initializer_list<absl::string_view>);
  std::string function_;
  std::vector<std::string> names_;
  std::vector<const Value*> slots_;
};

// Binds `args`, which must outlive the result, to the parameters; the first `num_required` of them
// must be given.
absl::StatusOr<BoundArgs> Bind(absl::string_view function, const CallArgs& args,
                               size_t num_required,
                               std::initializer_list<absl::string_view> parameters);

}  // namespace tessera::jinja
