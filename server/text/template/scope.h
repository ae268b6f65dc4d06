// The variables of a running template. Scopes form a chain from the innermost block out to the
// rendering's input and the global functions. A scope lives as long as it runs, or as a macro that
// was defined in it.
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

  // Looks outwards; null if nobody has it.
  const Value* Find(absl::string_view name) const;
  void Set(absl::string_view name, Value value);
};

std::shared_ptr<Scope> NewScope(std::shared_ptr<Scope> parent);

// What one rendering shares between the evaluator of expressions and the interpreter of statements.
struct RenderState {
  explicit RenderState(const RenderLimits& limits) : budget(limits) {}
  // Cuts the cycles that namespaces and macros may form.
  ~RenderState();

  Budget budget;
  std::shared_ptr<Scope> scope;  // the innermost now
  int depth = 0;
  int error_line = 0;  // where the first error arose; 0: no error yet
  std::vector<std::shared_ptr<Object>> namespaces;
  std::vector<std::shared_ptr<Scope>> captured_scopes;
};

// One level of evaluation while it lives.
class DepthGuard final {
 public:
  explicit DepthGuard(RenderState* state) : state_(*state) { ++state_.depth; }
  ~DepthGuard() { --state_.depth; }
  // Pays for the step.
  absl::Status Check() const;

 private:
  RenderState& state_;
};

// Puts another scope innermost while it lives.
class ScopeGuard final {
 public:
  ScopeGuard(RenderState* state, std::shared_ptr<Scope> scope);
  ~ScopeGuard() { state_.scope = std::move(before_); }

 private:
  RenderState& state_;
  std::shared_ptr<Scope> before_;
};

}  // namespace tessera::jinja
