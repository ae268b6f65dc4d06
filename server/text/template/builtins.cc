#include "server/text/template/builtins.h"

#include <ctime>

#include "kernels/base/status.h"
#include "server/text/template/access.h"
#include "server/text/template/callable.h"
#include "server/text/template/python_text.h"

namespace tessera::jinja {
namespace {

constexpr uint64_t kMaxRange = 100000;  // the limit of jinja2's sandbox
constexpr size_t kMaxTimeText = 4096;

Value MakeFunction(absl::string_view name, NativeFunction native, Value self = Value()) {
  auto function = std::make_shared<Function>();
  function->name = std::string(name);
  function->self = std::move(self);
  function->native = native;
  return Value::Of(Kind::kFunction, std::move(function));
}

absl::StatusOr<Value> MakeRange(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("range", args, 1, {"start", "stop", "step"}));
  auto range = std::make_shared<Range>();
  ASSIGN_OR_RETURN(range->start, bound.GetInt(0, 0));
  ASSIGN_OR_RETURN(range->stop, bound.GetInt(1, 0));
  ASSIGN_OR_RETURN(range->step, bound.GetInt(2, 1));
  if (!bound.Has(1)) range->stop = std::exchange(range->start, 0);
  if (range->step == 0) return Error("range() arg 3 must not be zero");
  const bool rises = range->step > 0;
  const bool is_empty = rises ? range->start >= range->stop : range->start <= range->stop;
  const uint64_t low = static_cast<uint64_t>(rises ? range->start : range->stop);
  const uint64_t high = static_cast<uint64_t>(rises ? range->stop : range->start);
  const uint64_t stride =
      rises ? static_cast<uint64_t>(range->step) : uint64_t{0} - static_cast<uint64_t>(range->step);
  const uint64_t size = is_empty ? 0 : (high - low - 1) / stride + 1;
  if (size > kMaxRange) {
    return Error("Range too big. The sandbox blocks ranges larger than MAX_RANGE (", kMaxRange,
                 ").");
  }
  range->size = static_cast<int64_t>(size);
  return Value::Of(Kind::kRange, std::move(range));
}

// Implements dict(mapping or pairs, name=value...).
absl::StatusOr<Value> MakeDictionary(Budget& budget, const Value& self, const CallArgs& args) {
  if (args.positional.size() > 1) return Error("dict expected at most 1 argument");
  auto dict = std::make_shared<Dict>();
  if (!args.positional.empty() && args.positional[0].is_undefined()) {
    return Error(args.positional[0].undefined_reason());
  }
  if (!args.positional.empty() && args.positional[0].is_dict()) {
    RETURN_IF_ERROR(budget.Build(args.positional[0].dict().size() * sizeof(Dict::Entry)));
    for (const auto& [key, value] : args.positional[0].dict().entries()) dict->Set(key, value);
  } else if (!args.positional.empty()) {
    ASSIGN_OR_RETURN(const std::vector<Value> pairs, Iterate(budget, args.positional[0]));
    for (const Value& pair : pairs) {
      ASSIGN_OR_RETURN(std::vector<Value> parts, Iterate(budget, pair));
      if (parts.size() != 2) return Error("dictionary update sequence elements must be pairs");
      if (!IsHashable(parts[0])) return Error("unhashable type: '", parts[0].TypeName(), "'");
      RETURN_IF_ERROR(SpendOnKey(budget, parts[0]));
      dict->Set(std::move(parts[0]), std::move(parts[1]));
    }
  }
  for (const auto& [name, value] : args.named) dict->Set(Value::String(name), value);
  return MakeDict(budget, std::move(dict));
}

absl::StatusOr<Value> MakeNamespace(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const Value initial, MakeDictionary(budget, self, args));
  auto space = std::make_shared<Namespace>();
  for (const auto& [key, value] : initial.dict().entries()) {
    if (!key.is_string()) return Error("a namespace's attributes must have names");
    space->attributes.emplace_back(key.text(), value);
  }
  return Value::Of(Kind::kNamespace, std::move(space));
}

absl::StatusOr<Value> NextOfCycler(Budget& budget, const Value& self, const CallArgs& args) {
  Namespace& cycler = self.name_space();
  const Value* items = cycler.Find("items");
  const Value* position = cycler.Find("pos");
  const bool is_intact = items != nullptr && items->Is(Kind::kList) && !items->items().empty() &&
                         position != nullptr && position->is_integral();
  if (!is_intact) return Error("the cycler was overwritten");
  const uint64_t size = items->items().size();
  const uint64_t at = static_cast<uint64_t>(position->integer()) % size;
  Value current = items->items()[at];
  const uint64_t next = (at + 1) % size;
  Value upcoming = items->items()[next];
  cycler.Set("pos", Value::Int(static_cast<int64_t>(next)));
  cycler.Set("current", std::move(upcoming));
  return current;
}

absl::StatusOr<Value> ResetCycler(Budget& budget, const Value& self, const CallArgs& args) {
  self.name_space().Set("pos", Value::Int(0));
  const Value* items = self.name_space().Find("items");
  if (items != nullptr && items->Is(Kind::kList) && !items->items().empty()) {
    Value first = items->items()[0];
    self.name_space().Set("current", std::move(first));
  }
  return Value::None();
}

absl::StatusOr<Value> MakeCycler(Budget& budget, const Value& self, const CallArgs& args) {
  if (args.positional.empty()) return Error("at least one item has to be provided");
  auto space = std::make_shared<Namespace>();
  const Value cycler = Value::Of(Kind::kNamespace, space);
  ASSIGN_OR_RETURN(Value items, MakeList(budget, args.positional));
  space->Set("items", std::move(items));
  space->Set("pos", Value::Int(0));
  space->Set("current", args.positional[0]);
  space->Set("next", MakeFunction("next", NextOfCycler, cycler));
  space->Set("reset", MakeFunction("reset", ResetCycler, cycler));
  return cycler;
}

absl::StatusOr<Value> NextOfJoiner(Budget& budget, const Value& self, const CallArgs& args) {
  const Value* separator = self.name_space().Find("sep");
  if (self.name_space().Find("used") != nullptr && separator != nullptr) return *separator;
  self.name_space().Set("used", Value::Bool(true));
  return Value::String("");
}

absl::StatusOr<Value> MakeJoiner(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("joiner", args, 0, {"sep"}));
  auto space = std::make_shared<Namespace>();
  space->Set("sep", bound.Get(0, Value::String(", ")));
  return MakeFunction("joiner", NextOfJoiner, Value::Of(Kind::kNamespace, std::move(space)));
}

absl::StatusOr<Value> RaiseException(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("raise_exception", args, 1, {"message"}));
  ASSIGN_OR_RETURN(const std::string message, Str(budget, bound[0]));
  return absl::InvalidArgumentError(message);
}

// Implements strftime_now. `self` is the time in microseconds since 1970.
absl::StatusOr<Value> FormatNow(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("strftime_now", args, 1, {"format"}));
  ASSIGN_OR_RETURN(const absl::string_view format, bound.GetText(0, ""));
  if (format.empty()) return Value::String("");
  if (format.size() > kMaxTimeText) return Error("strftime_now: the format is too long");
  const absl::Time now = absl::FromUnixMicros(self.integer());
  const std::tm fields = absl::ToTM(now, absl::LocalTimeZone());
  char buffer[kMaxTimeText];
  // strftime returns 0 both for an empty result and for a result that does not fit. The appended
  // "|" makes every result that fits non-empty.
  const size_t length =
      std::strftime(buffer, sizeof(buffer), absl::StrCat(format, "|").c_str(), &fields);
  if (length == 0) return Error("strftime_now: the formatted time is too long");
  return MakeString(budget, std::string(buffer, length - 1));
}

}  // namespace

void AddBuiltins(absl::Time now, Scope* scope) {
  scope->Set("range", MakeFunction("range", MakeRange));
  scope->Set("dict", MakeFunction("dict", MakeDictionary));
  scope->Set("namespace", MakeFunction("namespace", MakeNamespace));
  scope->Set("cycler", MakeFunction("cycler", MakeCycler));
  scope->Set("joiner", MakeFunction("joiner", MakeJoiner));
  scope->Set("raise_exception", MakeFunction("raise_exception", RaiseException));
  scope->Set("strftime_now",
             MakeFunction("strftime_now", FormatNow, Value::Int(absl::ToUnixMicros(now))));
}

}  // namespace tessera::jinja
