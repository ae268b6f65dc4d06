#include "server/text/template/access.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status.h"
#include "server/text/template/callable.h"
#include "server/text/template/methods.h"
#include "server/text/template/operators.h"
#include "server/text/template/python_text.h"
#include "server/text/template/unicode.h"

namespace tessera::jinja {
namespace {

std::string DescribeObject(const Value& value) {
  if (value.is_none()) return "None";
  return absl::StrCat(value.TypeName(), " object");
}

Value NoAttribute(const Value& value, absl::string_view name) {
  return Value::Undefined(
      absl::StrCat("'", DescribeObject(value), "' has no attribute '", name, "'"));
}

absl::StatusOr<Value> NoElement(Budget& budget, const Value& value, const Value& key) {
  if (key.is_string()) return NoAttribute(value, key.text());
  ASSIGN_OR_RETURN(const std::string shown, Repr(budget, key));
  return Value::Undefined(absl::StrCat(DescribeObject(value), " has no element ", shown));
}

Value ItemOrUndefined(const Loop& loop, size_t index, bool exists, absl::string_view why) {
  if (!exists || index >= loop.items.size()) return Value::Undefined(std::string(why));
  return loop.items[index];
}

absl::StatusOr<Value> Cycle(Budget& budget, const Value& self, const CallArgs& args) {
  if (args.positional.empty()) return Error("no items for cycling given");
  return args.positional[self.loop().index0 % args.positional.size()];
}

absl::StatusOr<Value> Changed(Budget& budget, const Value& self, const CallArgs& args) {
  Loop& loop = self.loop();
  if (loop.is_finished) return Error("loop.changed was called after its loop");
  ASSIGN_OR_RETURN(Value asked, MakeTuple(budget, args.positional));
  if (loop.was_asked_changed) {
    ASSIGN_OR_RETURN(const bool equal, Equals(budget, loop.last_asked, asked));
    if (equal) return Value::Bool(false);
  }
  loop.was_asked_changed = true;
  loop.last_asked = std::move(asked);
  return Value::Bool(true);
}

Value BindMethod(const Value& self, absl::string_view name, NativeFunction native) {
  auto function = std::make_shared<Function>();
  function->name = std::string(name);
  function->self = self;
  function->native = native;
  return Value::Of(Kind::kFunction, std::move(function));
}

// An attribute of the `loop` variable; undefined without a reason if there is no such attribute.
Value LoopAttribute(const Value& value, absl::string_view name) {
  const Loop& loop = value.loop();
  const int64_t index0 = static_cast<int64_t>(loop.index0);
  const int64_t length = static_cast<int64_t>(loop.length);
  if (name == "index0") return Value::Int(index0);
  if (name == "index") return Value::Int(index0 + 1);
  if (name == "revindex0") return Value::Int(length - index0 - 1);
  if (name == "revindex") return Value::Int(length - index0);
  if (name == "first") return Value::Bool(index0 == 0);
  if (name == "last") return Value::Bool(index0 + 1 == length);
  if (name == "length") return Value::Int(length);
  if (name == "depth0") return Value::Int(loop.depth0);
  if (name == "depth") return Value::Int(loop.depth0 + 1);
  if (name == "previtem") {
    return ItemOrUndefined(loop, loop.index0 - 1, index0 > 0, "there is no previous item");
  }
  if (name == "nextitem") {
    return ItemOrUndefined(loop, loop.index0 + 1, true, "there is no next item");
  }
  if (name == "cycle") return BindMethod(value, name, Cycle);
  if (name == "changed") return BindMethod(value, name, Changed);
  return Value();
}

absl::StatusOr<Value> RefuseCall(Budget& budget, const Value& self, const CallArgs& args) {
  return Error("a method of '", self.TypeName(), "' is not supported in templates");
}

// The attribute `name` of the value's type; undefined without a reason if the type does not have
// it.
Value OwnAttribute(const Value& value, absl::string_view name) {
  switch (value.kind()) {
    case Kind::kLoop:
      return LoopAttribute(value, name);
    case Kind::kNamespace: {
      const Value* found = value.name_space().Find(name);
      return found == nullptr ? Value() : *found;
    }
    case Kind::kMacro:
      return name == "name" ? Value::String(value.macro().name) : Value();
    case Kind::kTuple:  // the groupby filter returns tuples (grouper, list)
      if (value.items().size() == 2 && name == "grouper") return value.items()[0];
      if (value.items().size() == 2 && name == "list") return value.items()[1];
      break;
    default:
      break;
  }
  const Method method = FindMethod(value, name);
  switch (method.kind) {
    case MethodKind::kCallable:
      return BindMethod(value, name, method.native);
    case MethodKind::kUnsupported:
      return BindMethod(value, name, RefuseCall);
    case MethodKind::kUnsafe:
      return Value::Undefined(absl::StrCat("access to attribute '", name, "' of '",
                                           value.TypeName(), "' object is unsafe."));
    case MethodKind::kAbsent:
      break;
  }
  return Value();
}

bool IsAbsent(const Value& value) { return value.is_undefined() && value.object() == nullptr; }

// Converts an index, which counts from the end if it is negative. Returns false if the index is out
// of range.
bool ResolveIndex(int64_t index, int64_t size, int64_t* resolved) {
  *resolved = index < 0 ? index + size : index;
  return *resolved >= 0 && *resolved < size;
}

// The element `key` of a container; undefined without a reason if there is no such element.
absl::StatusOr<Value> Element(Budget& budget, const Value& value, const Value& key) {
  if (value.is_dict()) {
    if (!IsHashable(key)) return Value();
    RETURN_IF_ERROR(SpendOnKey(budget, key));
    const Value* found = value.dict().Find(key);
    return found == nullptr ? Value() : *found;
  }
  if (!key.is_integral()) return Value();
  int64_t index = 0;
  if (value.is_list_like()) {
    if (!ResolveIndex(key.integer(), static_cast<int64_t>(value.items().size()), &index))
      return Value();
    return value.items()[static_cast<size_t>(index)];
  }
  if (value.Is(Kind::kRange)) {
    if (!ResolveIndex(key.integer(), value.range().size, &index)) return Value();
    return Value::Int(value.range().At(index));
  }
  if (!value.is_string()) return Value();
  ASSIGN_OR_RETURN(const int64_t length, Length(budget, value));
  if (!ResolveIndex(key.integer(), length, &index)) return Value();
  const size_t begin = ByteOffset(value.text(), static_cast<size_t>(index));
  const size_t end = ByteOffset(value.text(), 1, begin);
  return Value::String(value.text().substr(begin, end - begin));
}

// The result of Python's slice.indices: the items that [start:stop:step] selects, as the first
// index, the number of items and the step.
struct SliceRange {
  int64_t first = 0;
  int64_t count = 0;
  int64_t step = 1;
};

SliceRange ResolveSlice(int64_t size, const Value& start, const Value& stop, int64_t step) {
  const auto clamp = [&](const Value& bound, int64_t absent) {
    if (bound.is_none()) return absent;
    int64_t index = bound.integer();
    if (index < 0) index = std::max<int64_t>(index + size, step < 0 ? -1 : 0);
    return std::min(index, step < 0 ? size - 1 : size);
  };
  SliceRange range;
  range.step = step;
  range.first = clamp(start, step < 0 ? size - 1 : 0);
  const int64_t end = clamp(stop, step < 0 ? -1 : size);
  const int64_t span = step > 0 ? end - range.first : range.first - end;
  const int64_t stride = step > 0 ? step : -step;
  range.count = span <= 0 ? 0 : (span - 1) / stride + 1;
  return range;
}

absl::StatusOr<Value> SliceString(Budget& budget, const Value& value, const Value& start,
                                  const Value& stop, int64_t step) {
  RETURN_IF_ERROR(budget.Spend(2 * value.text().size()));
  const absl::string_view text = value.text();
  const SliceRange range =
      ResolveSlice(static_cast<int64_t>(CountCodePoints(text)), start, stop, step);
  if (step == 1) {
    const size_t begin = ByteOffset(text, static_cast<size_t>(range.first));
    const size_t end = ByteOffset(text, static_cast<size_t>(range.count), begin);
    return MakeString(budget, std::string(text.substr(begin, end - begin)));
  }
  RETURN_IF_ERROR(budget.Build(text.size() * sizeof(absl::string_view)));
  const std::vector<absl::string_view> points = SplitCodePoints(text);
  std::string out;
  for (int64_t i = 0; i < range.count; ++i) {
    absl::StrAppend(&out, points[static_cast<size_t>(range.first + i * step)]);
  }
  return MakeString(budget, std::move(out));
}

absl::StatusOr<Value> SliceOfRange(const Range& whole, const SliceRange& slice) {
  auto range = std::make_shared<Range>();
  range->start = whole.At(slice.first);
  range->size = slice.count;
  if (__builtin_mul_overflow(whole.step, slice.step, &range->step)) {
    return Error("an integer exceeds 64 bits");
  }
  range->stop = range->At(slice.count);
  return Value::Of(Kind::kRange, std::move(range));
}

}  // namespace

absl::StatusOr<Value> GetAttribute(const Value& value, absl::string_view name) {
  if (value.is_undefined()) return Error(value.undefined_reason());
  Value own = OwnAttribute(value, name);
  if (!IsAbsent(own)) return own;
  if (value.is_dict()) {
    const Value* found = value.dict().Find(name);
    if (found != nullptr) return *found;
  }
  return NoAttribute(value, name);
}

absl::StatusOr<Value> GetItem(Budget& budget, const Value& value, const Value& key) {
  if (value.is_undefined()) return Error(value.undefined_reason());
  ASSIGN_OR_RETURN(Value element, Element(budget, value, key));
  if (!IsAbsent(element)) return element;
  if (key.is_string()) {
    Value own = OwnAttribute(value, key.text());
    if (!IsAbsent(own)) return own;
  }
  return NoElement(budget, value, key);
}

absl::StatusOr<Value> GetSlice(Budget& budget, const Value& value, const Value& start,
                               const Value& stop, const Value& step) {
  if (value.is_undefined()) return Error(value.undefined_reason());
  if (!value.is_string() && !value.is_list_like() && !value.Is(Kind::kRange)) {
    return Error("'", value.TypeName(), "' object cannot be sliced");
  }
  for (const Value* bound : {&start, &stop, &step}) {
    if (bound->is_none() || bound->is_integral()) continue;
    return Error("slice indices must be integers or None, not '", bound->TypeName(), "'");
  }
  // A step above any possible size selects at most one item. Clamping the step prevents overflow.
  constexpr int64_t kMaxStep = int64_t{1} << 40;
  const int64_t stride = step.is_none() ? 1 : std::clamp(step.integer(), -kMaxStep, kMaxStep);
  if (stride == 0) return Error("slice step cannot be zero");
  if (value.is_string()) return SliceString(budget, value, start, stop, stride);
  if (value.Is(Kind::kRange)) {
    return SliceOfRange(value.range(), ResolveSlice(value.range().size, start, stop, stride));
  }
  const std::vector<Value>& items = value.items();
  const SliceRange range = ResolveSlice(static_cast<int64_t>(items.size()), start, stop, stride);
  RETURN_IF_ERROR(budget.Spend(static_cast<size_t>(range.count) * sizeof(Value)));
  std::vector<Value> selected;
  selected.reserve(static_cast<size_t>(range.count));
  for (int64_t i = 0; i < range.count; ++i) {
    selected.push_back(items[static_cast<size_t>(range.first + i * stride)]);
  }
  if (value.Is(Kind::kTuple)) return MakeTuple(budget, std::move(selected));
  return MakeList(budget, std::move(selected));
}

absl::StatusOr<Value> GetPath(Budget& budget, const Value& value, const Value& path,
                              const Value& fallback) {
  std::vector<Value> keys = {path};
  if (path.is_string()) {
    keys.clear();
    for (const absl::string_view part : absl::StrSplit(path.text(), '.')) {
      int64_t index = 0;
      const bool is_index = std::all_of(part.begin(), part.end(), absl::ascii_isdigit) &&
                            absl::SimpleAtoi(part, &index);
      keys.push_back(is_index ? Value::Int(index) : Value::String(std::string(part)));
    }
  }
  Value current = value;
  for (const Value& key : keys) {
    RETURN_IF_ERROR(budget.Spend(Budget::kStepCost));
    ASSIGN_OR_RETURN(current, GetItem(budget, current, key));
    if (current.is_undefined() && !fallback.is_none()) current = fallback;
  }
  return current;
}

bool IsIterable(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kString:
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kDict:
    case Kind::kDictView:
    case Kind::kRange:
    case Kind::kIterator:
      return true;
    default:
      return false;
  }
}

absl::StatusOr<std::vector<Value>> Iterate(Budget& budget, const Value& value) {
  std::vector<Value> items;
  if (value.is_undefined()) return items;
  if (!IsIterable(value)) return Error("'", value.TypeName(), "' object is not iterable");
  if (value.Is(Kind::kIterator)) {
    Iterator& iterator = value.iterator();
    RETURN_IF_ERROR(budget.Spend((iterator.items.size() - iterator.next) * sizeof(Value)));
    items.assign(iterator.items.begin() + static_cast<ptrdiff_t>(iterator.next),
                 iterator.items.end());
    iterator.next = iterator.items.size();
    return items;
  }
  ASSIGN_OR_RETURN(const int64_t length, Length(budget, value));
  RETURN_IF_ERROR(budget.Build(static_cast<size_t>(length) * sizeof(Value)));
  items.reserve(static_cast<size_t>(length));
  switch (value.kind()) {
    case Kind::kString:
      for (const absl::string_view point : SplitCodePoints(value.text())) {
        items.push_back(Value::String(std::string(point)));
      }
      break;
    case Kind::kDict:
      for (const auto& [key, item] : value.dict().entries()) items.push_back(key);
      break;
    case Kind::kDictView:
      for (int64_t i = 0; i < length; ++i) items.push_back(value.view().At(static_cast<size_t>(i)));
      break;
    case Kind::kRange:
      for (int64_t i = 0; i < length; ++i) items.push_back(Value::Int(value.range().At(i)));
      break;
    default:
      items = value.items();
      break;
  }
  return items;
}

bool HasLength(const Value& value) {
  return (IsIterable(value) && !value.Is(Kind::kIterator)) || value.Is(Kind::kLoop);
}

absl::StatusOr<int64_t> Length(Budget& budget, const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return 0;
    case Kind::kString:
      RETURN_IF_ERROR(budget.Spend(value.text().size()));
      return static_cast<int64_t>(CountCodePoints(value.text()));
    case Kind::kList:
    case Kind::kTuple:
      return static_cast<int64_t>(value.items().size());
    case Kind::kDict:
      return static_cast<int64_t>(value.dict().size());
    case Kind::kDictView:
      return static_cast<int64_t>(value.view().dict.dict().size());
    case Kind::kRange:
      return value.range().size;
    case Kind::kLoop:
      return static_cast<int64_t>(value.loop().length);
    default:
      return Error("object of type '", value.TypeName(), "' has no len()");
  }
}

}  // namespace tessera::jinja
