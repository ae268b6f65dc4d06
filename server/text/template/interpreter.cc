#include "server/text/template/interpreter.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status.h"
#include "server/text/template/access.h"
#include "server/text/template/callable.h"
#include "server/text/template/evaluator.h"
#include "server/text/template/python_text.h"

namespace tessera::jinja {
namespace {

enum class Flow : uint8_t { kNext, kBreak, kContinue };

template <typename Node>
const Node& As(const Statement& statement) {
  return static_cast<const Node&>(statement);
}

class Interpreter final : public StatementRunner {
 public:
  explicit Interpreter(RenderState* state) : state_(*state), evaluator_(state, this) {}

  absl::StatusOr<std::string> Render(const Body& body) {
    std::string text;
    out_ = &text;
    RETURN_IF_ERROR(RunBody(body).status());
    return text;
  }

  absl::StatusOr<Value> CallMacro(const Macro& macro, const CallArgs& args) override {
    const ScopeGuard scope(&state_, NewScope(macro.scope));
    RETURN_IF_ERROR(BindParameters(*macro.statement, macro.name, args));
    ASSIGN_OR_RETURN(Capture captured, Captured(macro.statement->body));
    return std::move(captured.text);
  }

  absl::StatusOr<Value> CallLoop(const Loop& loop, const CallArgs& args) override {
    if (loop.recursive == nullptr || args.positional.size() != 1) {
      return Error("The loop must have the 'recursive' marker to be called recursively.");
    }
    const ForStatement& statement = *loop.recursive;
    const int64_t depth0 = loop.depth0 + 1;
    const ScopeGuard scope(&state_, loop.scope);
    std::string text;
    std::string* const outer = std::exchange(out_, &text);
    const absl::Status status = RunLoop(statement, args.positional[0], depth0);
    out_ = outer;
    RETURN_IF_ERROR(status);
    return MakeString(state_.budget, std::move(text));
  }

 private:
  absl::StatusOr<Flow> RunBody(const Body& body) {
    for (const StatementPtr& statement : body) {
      ASSIGN_OR_RETURN(const Flow flow, Run(*statement));
      if (flow != Flow::kNext) return flow;
    }
    return Flow::kNext;
  }

  absl::StatusOr<Flow> Run(const Statement& statement) {
    const DepthGuard depth(&state_);
    absl::Status allowed = depth.Check();
    absl::StatusOr<Flow> flow = allowed.ok() ? Dispatch(statement) : absl::StatusOr<Flow>(allowed);
    if (!flow.ok() && state_.error_line == 0) state_.error_line = statement.line;
    return flow;
  }

  absl::StatusOr<Flow> Dispatch(const Statement& statement) {
    switch (statement.kind) {
      case StatementKind::kIf:
        return RunIf(As<IfStatement>(statement));
      case StatementKind::kScope:
        return RunScoped(As<ScopeStatement>(statement).body);
      case StatementKind::kWith:
        return RunWith(As<WithStatement>(statement));
      case StatementKind::kSetBlock:
        return RunSetBlock(As<SetBlockStatement>(statement));
      case StatementKind::kFilterBlock:
        return RunFilterBlock(As<FilterBlockStatement>(statement));
      case StatementKind::kBreak:
        return Flow::kBreak;
      case StatementKind::kContinue:
        return Flow::kContinue;
      default:
        break;
    }
    RETURN_IF_ERROR(RunSimple(statement));
    return Flow::kNext;
  }

  // Runs the statements out of which no `break` or `continue` can jump.
  absl::Status RunSimple(const Statement& statement) {
    switch (statement.kind) {
      case StatementKind::kText:
        return Print(As<TextStatement>(statement).text);
      case StatementKind::kPrint:
        return RunPrint(As<PrintStatement>(statement));
      case StatementKind::kFor:
        return RunFor(As<ForStatement>(statement));
      case StatementKind::kSet:
        return RunSet(As<SetStatement>(statement));
      case StatementKind::kMacro:
        return RunMacro(As<MacroStatement>(statement));
      case StatementKind::kCallBlock:
        return RunCallBlock(As<CallBlockStatement>(statement));
      default:
        return absl::InternalError("unknown statement");
    }
  }

  absl::Status Print(absl::string_view text) {
    RETURN_IF_ERROR(state_.budget.Spend(text.size()));
    if (out_->size() + text.size() > state_.budget.limits().max_output_bytes) {
      return absl::ResourceExhaustedError("the template prints too much text");
    }
    out_->append(text.data(), text.size());
    return absl::OkStatus();
  }

  absl::Status RunPrint(const PrintStatement& statement) {
    ASSIGN_OR_RETURN(const Value value, evaluator_.Eval(*statement.value));
    return AppendStr(state_.budget, value, out_);
  }

  absl::StatusOr<Flow> RunIf(const IfStatement& statement) {
    for (const auto& [condition, body] : statement.branches) {
      ASSIGN_OR_RETURN(const bool holds, evaluator_.EvalCondition(*condition));
      if (holds) return RunBody(body);
    }
    return RunBody(statement.else_body);
  }

  absl::StatusOr<Flow> RunScoped(const Body& body) {
    const ScopeGuard scope(&state_, NewScope(state_.scope));
    return RunBody(body);
  }

  absl::StatusOr<Flow> RunWith(const WithStatement& statement) {
    std::shared_ptr<Scope> inner = NewScope(state_.scope);
    for (const auto& [target, expr] : statement.assignments) {
      ASSIGN_OR_RETURN(Value value, evaluator_.Eval(*expr));
      const ScopeGuard scope(&state_, inner);
      RETURN_IF_ERROR(Assign(target, std::move(value)));
    }
    const ScopeGuard scope(&state_, std::move(inner));
    return RunBody(statement.body);
  }

  struct Capture {
    Value text;
    Flow flow = Flow::kNext;
  };

  // Runs the body in a new scope and returns the text that it prints.
  absl::StatusOr<Capture> Captured(const Body& body) {
    std::string text;
    std::string* const outer = std::exchange(out_, &text);
    const absl::StatusOr<Flow> flow = RunScoped(body);
    out_ = outer;
    RETURN_IF_ERROR(flow.status());
    ASSIGN_OR_RETURN(Value value, MakeString(state_.budget, std::move(text)));
    return Capture{std::move(value), *flow};
  }

  absl::Status RunFor(const ForStatement& statement) {
    ASSIGN_OR_RETURN(const Value sequence, evaluator_.Eval(*statement.sequence));
    return RunLoop(statement, sequence, /*depth0=*/0);
  }

  absl::StatusOr<std::vector<Value>> LoopItems(const ForStatement& statement,
                                               const Value& sequence) {
    ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(state_.budget, sequence));
    if (statement.filter == nullptr) return items;
    std::vector<Value> kept;
    for (Value& item : items) {
      const ScopeGuard scope(&state_, NewScope(state_.scope));
      RETURN_IF_ERROR(Assign(statement.target, item));
      ASSIGN_OR_RETURN(const bool keeps, evaluator_.EvalCondition(*statement.filter));
      if (keeps) kept.push_back(std::move(item));
    }
    return kept;
  }

  absl::Status RunLoop(const ForStatement& statement, const Value& sequence, int64_t depth0) {
    auto loop = std::make_shared<Loop>();
    ASSIGN_OR_RETURN(loop->items, LoopItems(statement, sequence));
    loop->length = loop->items.size();
    loop->depth0 = depth0;
    if (statement.is_recursive) {
      loop->recursive = &statement;
      loop->scope = state_.scope;
    }
    const absl::Status status = RunIterations(statement, loop);
    // The `loop` variable may outlive the loop, for example in a namespace. The kept loop object
    // has only its numbers.
    loop->is_finished = true;
    loop->items.clear();
    loop->last_asked = Value();
    loop->scope.reset();
    RETURN_IF_ERROR(status);
    if (loop->length != 0) return absl::OkStatus();
    return RunScoped(statement.else_body).status();
  }

  absl::Status RunIterations(const ForStatement& statement, const std::shared_ptr<Loop>& loop) {
    for (size_t i = 0; i < loop->length; ++i) {
      const ScopeGuard scope(&state_, NewScope(state_.scope));
      loop->index0 = i;
      RETURN_IF_ERROR(Assign(statement.target, loop->items[i]));
      state_.scope->Set("loop", Value::Of(Kind::kLoop, loop));
      ASSIGN_OR_RETURN(const Flow flow, RunBody(statement.body));
      if (flow == Flow::kBreak) break;
    }
    return absl::OkStatus();
  }

  absl::Status RunSet(const SetStatement& statement) {
    ASSIGN_OR_RETURN(Value value, evaluator_.Eval(*statement.value));
    return Assign(statement.target, std::move(value));
  }

  // Assigns the text of the body. A `break` or `continue` in the body skips the assignment.
  absl::StatusOr<Flow> RunSetBlock(const SetBlockStatement& statement) {
    ASSIGN_OR_RETURN(Capture captured, Captured(statement.body));
    if (captured.flow != Flow::kNext) return captured.flow;
    Value text = std::move(captured.text);
    if (statement.filter != nullptr) {
      ASSIGN_OR_RETURN(text, evaluator_.ApplyFilters(*statement.filter, std::move(text)));
    }
    RETURN_IF_ERROR(Assign(statement.target, std::move(text)));
    return Flow::kNext;
  }

  absl::Status Assign(const Target& target, Value value) {
    RETURN_IF_ERROR(state_.budget.Spend(Budget::kStepCost));
    if (target.is_tuple) return Unpack(target, value);
    if (target.attribute.empty()) {
      state_.scope->Set(target.name, std::move(value));
      return absl::OkStatus();
    }
    const Value* space = state_.scope->Find(target.name);
    if (space == nullptr) return Error("'", target.name, "' is undefined");
    if (!space->Is(Kind::kNamespace))
      return Error("cannot assign attribute on non-namespace object");
    space->name_space().Set(target.attribute, std::move(value));
    return absl::OkStatus();
  }

  absl::Status Unpack(const Target& target, const Value& value) {
    if (!IsIterable(value))
      return Error("cannot unpack non-iterable ", value.TypeName(), " object");
    ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(state_.budget, value));
    const size_t expected = target.parts.size();
    if (items.size() > expected)
      return Error("too many values to unpack (expected ", expected, ")");
    if (items.size() < expected) {
      return Error("not enough values to unpack (expected ", expected, ", got ", items.size(), ")");
    }
    for (size_t i = 0; i < expected; ++i) {
      RETURN_IF_ERROR(Assign(target.parts[i], std::move(items[i])));
    }
    return absl::OkStatus();
  }

  Value MacroHere(const MacroStatement& statement) {
    auto macro = std::make_shared<Macro>();
    macro->name = statement.name;
    macro->statement = &statement;
    macro->scope = state_.scope;
    state_.captured_scopes.push_back(state_.scope);
    return Value::Of(Kind::kMacro, std::move(macro));
  }

  absl::Status RunMacro(const MacroStatement& statement) {
    state_.scope->Set(statement.name, MacroHere(statement));
    return absl::OkStatus();
  }

  absl::Status RunCallBlock(const CallBlockStatement& statement) {
    const auto& call = static_cast<const CallExpr&>(*statement.call);
    ASSIGN_OR_RETURN(const Value result,
                     evaluator_.CallWithCaller(call, MacroHere(*statement.body)));
    return AppendStr(state_.budget, result, out_);
  }

  // Prints the filtered text of the body. A `break` or `continue` in the body drops the text.
  absl::StatusOr<Flow> RunFilterBlock(const FilterBlockStatement& statement) {
    ASSIGN_OR_RETURN(Capture captured, Captured(statement.body));
    if (captured.flow != Flow::kNext) return captured.flow;
    ASSIGN_OR_RETURN(const Value text,
                     evaluator_.ApplyFilters(*statement.filter, std::move(captured.text)));
    RETURN_IF_ERROR(AppendStr(state_.budget, text, out_));
    return Flow::kNext;
  }

  // Sets the macro's parameters in the innermost scope.
  absl::Status BindParameters(const MacroStatement& macro, const std::string& name,
                              const CallArgs& args) {
    Scope& scope = *state_.scope;
    auto named = args.named;
    const auto take_named = [&](absl::string_view wanted, Value* value) {
      const auto found = std::find_if(named.begin(), named.end(),
                                      [&](const auto& entry) { return entry.first == wanted; });
      if (found == named.end()) return false;
      *value = std::move(found->second);
      named.erase(found);
      return true;
    };
    bool has_caller_parameter = false;
    for (size_t i = 0; i < macro.parameters.size(); ++i) {
      const Parameter& parameter = macro.parameters[i];
      has_caller_parameter = has_caller_parameter || parameter.name == "caller";
      Value value =
          Value::Undefined(absl::StrCat("parameter '", parameter.name, "' was not provided"));
      if (i < args.positional.size()) {
        value = args.positional[i];
      } else if (!take_named(parameter.name, &value) && parameter.fallback != nullptr) {
        ASSIGN_OR_RETURN(value, evaluator_.Eval(*parameter.fallback));
      }
      scope.Set(parameter.name, std::move(value));
    }
    if (macro.uses_caller && !has_caller_parameter) {
      Value caller = Value::Undefined("No caller defined");
      take_named("caller", &caller);
      scope.Set("caller", std::move(caller));
    }
    RETURN_IF_ERROR(BindExtra(macro, name, args, named));
    return absl::OkStatus();
  }

  absl::Status BindExtra(const MacroStatement& macro, const std::string& name, const CallArgs& args,
                         const std::vector<std::pair<std::string, Value>>& named) {
    if (macro.uses_kwargs) {
      auto kwargs = std::make_shared<Dict>();
      for (const auto& [key, value] : named) kwargs->Set(Value::String(key), value);
      ASSIGN_OR_RETURN(Value dict, MakeDict(state_.budget, std::move(kwargs)));
      state_.scope->Set("kwargs", std::move(dict));
    } else if (!named.empty()) {
      return Error("macro '", name, "' takes no keyword argument '", named.front().first, "'");
    }
    const size_t num_parameters = macro.parameters.size();
    if (macro.uses_varargs) {
      const size_t first = std::min(num_parameters, args.positional.size());
      ASSIGN_OR_RETURN(Value rest, MakeTuple(state_.budget, {args.positional.begin() +
                                                                 static_cast<ptrdiff_t>(first),
                                                             args.positional.end()}));
      state_.scope->Set("varargs", std::move(rest));
    } else if (args.positional.size() > num_parameters) {
      return Error("macro '", name, "' takes not more than ", num_parameters, " argument(s)");
    }
    return absl::OkStatus();
  }

  RenderState& state_;
  Evaluator evaluator_;
  std::string* out_ = nullptr;
};

}  // namespace

absl::StatusOr<std::string> RunTemplate(const Body& body, RenderState* state) {
  absl::StatusOr<std::string> text = Interpreter(state).Render(body);
  if (text.ok()) return text;
  return absl::Status(
      text.status().code(),
      absl::StrCat("line ", state->error_line, ": ", absl::string_view(text.status().message())));
}

}  // namespace tessera::jinja
