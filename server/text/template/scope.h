// The variables of a rendering. Scopes form a chain from the innermost block to the input variables
// and the global functions. A scope lives as long as its block runs, or longer if a macro was
// defined in it. Used by one rendering, on its thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "server/text/template/budget.h"
#include "server/text/template/value.h"

namespace tessera::jinja {

struct Scope {
  std::shared_ptr<Scope> parent;
  absl::flat_hash_map<std::string, Value> variables;

  // Searches this scope and then its parents. Returns null if no scope has the variable.
  const Value* Find(absl::string_view name) const;
  void Set(absl::string_view name, Value value);
};

std::shared_ptr<Scope> NewScope(std::shared_ptr<Scope> parent);

// The state of one rendering, which the evaluator and the interpreter share.
struct RenderState {
  RenderState(const RenderLimits& limits, uint64_t seed) : budget(limits, seed) {}
  // Breaks the reference cycles that namespaces and macros may form.
  ~RenderState();

  Budget budget;
  std::shared_ptr<Scope> scope;  // the innermost scope
  int depth = 0;                 // current depth of nested evaluations
  int error_line = 0;            // line of the first error; 0: no error yet
  std::vector<std::shared_ptr<Object>> namespaces;
  std::vector<std::shared_ptr<Scope>> captured_scopes;
};

// Counts one level of nested evaluation during its lifetime.
class DepthGuard final {
 public:
  explicit DepthGuard(RenderState* state) : state_(*state) { ++state_.depth; }
  ~DepthGuard() { --state_.depth; }
  // Checks the depth and charges the budget for one step.
  absl::Status Check() const;

 private:
  RenderState& state_;
};

// Makes another scope the innermost scope during its lifetime.
class ScopeGuard final {
 public:
  ScopeGuard(RenderState* state, std::shared_ptr<Scope> scope);
  ~ScopeGuard() { state_.scope = std::move(before_); }

 private:
  RenderState& state_;
  std::shared_ptr<Scope> before_;
};

}  // namespace tessera::jinja
