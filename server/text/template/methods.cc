#include "server/text/template/methods.h"

#include <algorithm>

#include "kernels/base/status.h"
#include "server/text/template/operators.h"

namespace tessera::jinja {
namespace {

template <View::Part kPart>
absl::StatusOr<Value> ViewOf(Budget& budget, const Value& self, const CallArgs& args) {
  RETURN_IF_ERROR(Bind("dict method", args, 0, {}).status());
  auto view = std::make_shared<View>();
  view->dict = self;
  view->part = kPart;
  return Value::Of(Kind::kDictView, std::move(view));
}

absl::StatusOr<Value> Get(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("get", args, 1, {"key", "default"}));
  if (!IsHashable(bound[0])) return Error("unhashable type: '", bound[0].TypeName(), "'");
  RETURN_IF_ERROR(SpendOnKey(budget, bound[0]));
  const Value* found = self.dict().Find(bound[0]);
  return found != nullptr ? *found : bound.Get(1, Value::None());
}

// Implements dict.copy and list.copy. Values are immutable, so a copy is the value itself.
absl::StatusOr<Value> Copy(Budget& budget, const Value& self, const CallArgs& args) { return self; }

absl::StatusOr<Value> CountItem(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("count", args, 1, {"value"}));
  int64_t count = 0;
  for (const Value& item : self.items()) {
    ASSIGN_OR_RETURN(const bool equal, Equals(budget, item, bound[0]));
    count += equal ? 1 : 0;
  }
  return Value::Int(count);
}

absl::StatusOr<Value> IndexOfItem(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("index", args, 1, {"value", "start", "stop"}));
  const std::vector<Value>& items = self.items();
  const int64_t size = static_cast<int64_t>(items.size());
  ASSIGN_OR_RETURN(int64_t start, bound.GetInt(1, 0));
  ASSIGN_OR_RETURN(int64_t stop, bound.GetInt(2, size));
  if (start < 0) start = std::max<int64_t>(0, start + size);
  if (stop < 0) stop += size;
  for (int64_t i = start; i < std::min(stop, size); ++i) {
    ASSIGN_OR_RETURN(const bool equal, Equals(budget, items[static_cast<size_t>(i)], bound[0]));
    if (equal) return Value::Int(i);
  }
  return Error("the value is not in the list");
}

struct Entry {
  absl::string_view name;
  MethodKind kind;
  NativeFunction native;
};

constexpr Entry kDictMethods[] = {
    {"get", MethodKind::kCallable, Get},
    {"items", MethodKind::kCallable, ViewOf<View::Part::kItems>},
    {"keys", MethodKind::kCallable, ViewOf<View::Part::kKeys>},
    {"values", MethodKind::kCallable, ViewOf<View::Part::kValues>},
    {"copy", MethodKind::kCallable, Copy},
    {"fromkeys", MethodKind::kUnsupported, nullptr},
    {"clear", MethodKind::kUnsafe, nullptr},
    {"pop", MethodKind::kUnsafe, nullptr},
    {"popitem", MethodKind::kUnsafe, nullptr},
    {"setdefault", MethodKind::kUnsafe, nullptr},
    {"update", MethodKind::kUnsafe, nullptr},
};

constexpr Entry kSequenceMethods[] = {
    {"count", MethodKind::kCallable, CountItem},
    {"index", MethodKind::kCallable, IndexOfItem},
};

constexpr Entry kListMethods[] = {
    {"copy", MethodKind::kCallable, Copy},    {"append", MethodKind::kUnsafe, nullptr},
    {"clear", MethodKind::kUnsafe, nullptr},  {"extend", MethodKind::kUnsafe, nullptr},
    {"insert", MethodKind::kUnsafe, nullptr}, {"pop", MethodKind::kUnsafe, nullptr},
    {"remove", MethodKind::kUnsafe, nullptr}, {"reverse", MethodKind::kUnsafe, nullptr},
    {"sort", MethodKind::kUnsafe, nullptr},
};

template <size_t kSize>
Method FindIn(const Entry (&table)[kSize], absl::string_view name) {
  for (const Entry& entry : table) {
    if (entry.name == name) return {entry.kind, entry.native};
  }
  return {};
}

}  // namespace

Method FindMethod(const Value& value, absl::string_view name) {
  const bool is_internal =
      name.size() > 4 && name.substr(0, 2) == "__" && name.substr(name.size() - 2) == "__";
  if (is_internal) return {MethodKind::kUnsafe, nullptr};
  switch (value.kind()) {
    case Kind::kString:
      return FindStringMethod(name);
    case Kind::kDict:
      return FindIn(kDictMethods, name);
    case Kind::kTuple:
      return FindIn(kSequenceMethods, name);
    case Kind::kList: {
      const Method shared = FindIn(kSequenceMethods, name);
      return shared.kind != MethodKind::kAbsent ? shared : FindIn(kListMethods, name);
    }
    default:
      return {};
  }
}

}  // namespace tessera::jinja
