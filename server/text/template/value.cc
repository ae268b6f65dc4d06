#include "server/text/template/value.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "server/text/template/callable.h"

namespace tessera::jinja {
namespace {

struct StringObject : Object {
  std::string text;
  bool markup = false;
};

struct ListObject : Object {
  std::vector<Value> items;
  int depth = 1;
};

struct UndefinedObject : Object {
  std::string reason;
};

// A dict with at most this number of entries has no index; lookups scan its entries.
constexpr size_t kMaxUnindexedEntries = 8;

int DepthAround(const std::vector<Value>& items) {
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, item.depth());
  return depth + 1;
}

Value ListOf(Kind kind, std::vector<Value> items) {
  auto object = std::make_shared<ListObject>();
  object->depth = DepthAround(items);
  object->items = std::move(items);
  return Value::Of(kind, std::move(object));
}

}  // namespace

Value Value::Bool(bool value) {
  Value result(Kind::kBool);
  result.integer_ = value ? 1 : 0;
  return result;
}

Value Value::Int(int64_t value) {
  Value result(Kind::kInt);
  result.integer_ = value;
  return result;
}

Value Value::Float(double value) {
  Value result(Kind::kFloat);
  result.real_ = value;
  return result;
}

Value Value::String(std::string text, bool markup) {
  auto object = std::make_shared<StringObject>();
  object->text = std::move(text);
  object->markup = markup;
  return Of(Kind::kString, std::move(object));
}

Value Value::BigInt(std::string digits) {
  auto object = std::make_shared<StringObject>();
  object->text = std::move(digits);
  return Of(Kind::kBigInt, std::move(object));
}

Value Value::Undefined(std::string why) {
  auto object = std::make_shared<UndefinedObject>();
  object->reason = std::move(why);
  return Of(Kind::kUndefined, std::move(object));
}

Value Value::Of(Kind kind, std::shared_ptr<Object> object) {
  Value result(kind);
  result.object_ = std::move(object);
  return result;
}

Value Value::List(std::vector<Value> items) { return ListOf(Kind::kList, std::move(items)); }

Value Value::Tuple(std::vector<Value> items) { return ListOf(Kind::kTuple, std::move(items)); }

Value Value::FromDict(std::shared_ptr<Dict> dict) { return Of(Kind::kDict, std::move(dict)); }

Value Value::Generator(std::vector<Value> items) {
  auto object = std::make_shared<Iterator>();
  object->depth = DepthAround(items);
  object->items = std::move(items);
  return Of(Kind::kIterator, std::move(object));
}

const std::string& Value::text() const {
  return static_cast<const StringObject*>(object_.get())->text;
}

bool Value::is_markup() const {
  return is_string() && static_cast<const StringObject*>(object_.get())->markup;
}

const std::vector<Value>& Value::items() const {
  return static_cast<const ListObject*>(object_.get())->items;
}

const Dict& Value::dict() const { return *static_cast<const Dict*>(object_.get()); }

const std::string& Value::undefined_reason() const {
  static const std::string* const unnamed = new std::string("the value is undefined");
  return object_ == nullptr ? *unnamed : static_cast<const UndefinedObject*>(object_.get())->reason;
}

const Range& Value::range() const { return *static_cast<const Range*>(object_.get()); }

const View& Value::view() const { return *static_cast<const View*>(object_.get()); }

Iterator& Value::iterator() const { return *static_cast<Iterator*>(object_.get()); }

Namespace& Value::name_space() const { return *static_cast<Namespace*>(object_.get()); }

Loop& Value::loop() const { return *static_cast<Loop*>(object_.get()); }

const Function& Value::function() const { return *static_cast<const Function*>(object_.get()); }

const Macro& Value::macro() const { return *static_cast<const Macro*>(object_.get()); }

int Value::depth() const {
  switch (kind_) {
    case Kind::kList:
    case Kind::kTuple:
      return static_cast<const ListObject*>(object_.get())->depth;
    case Kind::kDict:
      return dict().depth();
    case Kind::kDictView:
      return view().dict.depth() + 1;
    case Kind::kIterator:
      return iterator().depth;
    case Kind::kFunction:
      return function().self.depth() + 1;
    default:
      return 0;
  }
}

bool Value::Truthy() const {
  switch (kind_) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
    case Kind::kInt:
      return integer_ != 0;
    case Kind::kFloat:
      return real_ != 0;
    case Kind::kString:
      return !text().empty();
    case Kind::kList:
    case Kind::kTuple:
      return !items().empty();
    case Kind::kDict:
      return dict().size() != 0;
    case Kind::kDictView:
      return view().dict.dict().size() != 0;
    case Kind::kRange:
      return range().size != 0;
    default:
      return true;
  }
}

bool Value::SameAs(const Value& other) const {
  if (kind_ != other.kind_) return false;
  switch (kind_) {
    case Kind::kNone:
      return true;
    case Kind::kBool:
    case Kind::kInt:
      return integer_ == other.integer_;
    case Kind::kFloat:
      return real_ == other.real_;
    case Kind::kBigInt:
    case Kind::kString:
      return object_ == other.object_ || text() == other.text();
    default:
      return object_ == other.object_;
  }
}

absl::string_view Value::TypeName() const {
  switch (kind_) {
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "NoneType";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
    case Kind::kBigInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return is_markup() ? "Markup" : "str";
    case Kind::kList:
      return "list";
    case Kind::kTuple:
      return "tuple";
    case Kind::kDict:
      return "dict";
    case Kind::kDictView:
      if (view().part == View::Part::kKeys) return "dict_keys";
      return view().part == View::Part::kValues ? "dict_values" : "dict_items";
    case Kind::kRange:
      return "range";
    case Kind::kIterator:
      return "generator";
    case Kind::kNamespace:
      return "Namespace";
    case Kind::kLoop:
      return "LoopContext";
    case Kind::kFunction:
      return "builtin_function_or_method";
    case Kind::kMacro:
      return "Macro";
  }
  return "object";
}

bool IsHashable(const Value& value) {
  if (value.Is(Kind::kTuple)) {
    return std::all_of(value.items().begin(), value.items().end(), IsHashable);
  }
  return !value.Is(Kind::kList) && !value.is_dict() && !value.Is(Kind::kDictView);
}

std::string CanonicalKey(const Value& value) {
  switch (value.kind()) {
    case Kind::kString:
      return absl::StrCat("s", value.text());
    case Kind::kBool:
    case Kind::kInt:
      return absl::StrCat("i", value.integer());
    case Kind::kBigInt:
      return absl::StrCat("i", value.text());
    case Kind::kFloat: {
      const double real = value.real();
      const bool integral = real == std::floor(real) && std::fabs(real) < 9.2e18;
      if (integral) return absl::StrCat("i", static_cast<int64_t>(real));
      return absl::StrCat("f",
                          absl::string_view(reinterpret_cast<const char*>(&real), sizeof(real)));
    }
    case Kind::kTuple: {
      std::string key = "t";
      for (const Value& item : value.items()) {
        const std::string part = CanonicalKey(item);
        absl::StrAppend(&key, part.size(), ":", part);
      }
      return key;
    }
    case Kind::kNone:
      return "n";
    case Kind::kUndefined:
      return "u";
    default:
      return absl::StrCat("o", absl::Hex(reinterpret_cast<uintptr_t>(value.object().get())));
  }
}

int64_t Dict::IndexOf(absl::string_view canonical) const {
  if (!index_.empty()) {
    const auto found = index_.find(canonical);
    return found == index_.end() ? -1 : static_cast<int64_t>(found->second);
  }
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (CanonicalKey(entries_[i].first) == canonical) return static_cast<int64_t>(i);
  }
  return -1;
}

const Value* Dict::Find(const Value& key) const {
  if (key.is_string()) return Find(key.text());
  const int64_t index = IndexOf(CanonicalKey(key));
  return index < 0 ? nullptr : &entries_[static_cast<size_t>(index)].second;
}

const Value* Dict::Find(absl::string_view key) const {
  if (index_.empty()) {
    for (const Entry& entry : entries_) {
      if (entry.first.is_string() && entry.first.text() == key) return &entry.second;
    }
    return nullptr;
  }
  const int64_t index = IndexOf(absl::StrCat("s", key));
  return index < 0 ? nullptr : &entries_[static_cast<size_t>(index)].second;
}

void Dict::Set(Value key, Value value) {
  depth_ = std::max({depth_, 1 + value.depth(), 1 + key.depth()});
  std::string canonical = CanonicalKey(key);
  const int64_t found = IndexOf(canonical);
  if (found >= 0) {
    entries_[static_cast<size_t>(found)].second = std::move(value);
    return;
  }
  entries_.emplace_back(std::move(key), std::move(value));
  if (entries_.size() <= kMaxUnindexedEntries) return;
  if (!index_.empty()) {
    index_.emplace(std::move(canonical), entries_.size() - 1);
    return;
  }
  for (size_t i = 0; i < entries_.size(); ++i) index_.emplace(CanonicalKey(entries_[i].first), i);
}

Value View::At(size_t index) const {
  const Dict::Entry& entry = dict.dict().entries()[index];
  if (part == Part::kKeys) return entry.first;
  if (part == Part::kValues) return entry.second;
  return Value::Tuple({entry.first, entry.second});
}

const Value* Namespace::Find(absl::string_view name) const {
  for (const auto& [key, value] : attributes) {
    if (key == name) return &value;
  }
  return nullptr;
}

void Namespace::Set(absl::string_view name, Value value) {
  for (auto& [key, old] : attributes) {
    if (key != name) continue;
    old = std::move(value);
    return;
  }
  attributes.emplace_back(std::string(name), std::move(value));
}

}  // namespace tessera::jinja
