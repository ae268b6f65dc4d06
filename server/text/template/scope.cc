#include "server/text/template/scope.h"

namespace tessera::jinja {

const Value* Scope::Find(absl::string_view name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->parent.get()) {
    const auto found = scope->variables.find(name);
    if (found != scope->variables.end()) return &found->second;
  }
  return nullptr;
}

void Scope::Set(absl::string_view name, Value value) {
  variables.insert_or_assign(std::string(name), std::move(value));
}

std::shared_ptr<Scope> NewScope(std::shared_ptr<Scope> parent) {
  auto scope = std::make_shared<Scope>();
  scope->parent = std::move(parent);
  return scope;
}

RenderState::~RenderState() {
  // The vectors keep every namespace and scope alive until all are empty. So no destructor recurses
  // through a chain of them.
  for (const std::shared_ptr<Object>& object : namespaces) {
    static_cast<Namespace*>(object.get())->attributes.clear();
  }
  for (const std::shared_ptr<Scope>& captured : captured_scopes) captured->variables.clear();
}

absl::Status DepthGuard::Check() const {
  if (state_.depth > state_.budget.limits().max_depth) {
    return absl::ResourceExhaustedError("the template nests or calls itself too deep");
  }
  return state_.budget.Spend(Budget::kStepCost);
}

ScopeGuard::ScopeGuard(RenderState* state, std::shared_ptr<Scope> scope)
    : state_(*state), before_(std::move(state->scope)) {
  state_.scope = std::move(scope);
}

}  // namespace tessera::jinja
