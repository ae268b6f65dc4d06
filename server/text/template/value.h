// The values of a chat template: Python's none, bool, int, float, str, list, tuple, dict and range,
// and jinja2's undefined, namespace, loop and macro. A Value is small and cheap to copy. Its heap
// data is shared and immutable (a template cannot modify lists and dicts), except for namespaces,
// loops and iterators. A value belongs to one rendering and one thread. No container nests deeper
// than kMaxValueDepth, so that recursion over values is bounded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace tessera::jinja {

inline constexpr int kMaxValueDepth = 100;

enum class Kind : uint8_t {
  kUndefined,
  kNone,
  kBool,
  kInt,
  kBigInt,
  kFloat,
  kString,
  kList,
  kTuple,
  kDict,
  kDictView,
  kRange,
  kIterator,
  kNamespace,
  kLoop,
  kFunction,
  kMacro,
};

struct Object {
  virtual ~Object() = default;
};

class Value;
class Dict;
struct CallArgs;
struct Function;
struct Loop;
struct Macro;
struct Namespace;
struct Range;
struct View;
struct Iterator;

class Value final {
 public:
  Value() = default;  // undefined, without a name
  static Value None() { return Value(Kind::kNone); }
  static Value Bool(bool value);
  static Value Int(int64_t value);
  static Value Float(double value);
  static Value String(std::string text, bool markup = false);
  // A Python int beyond 64 bits. It can be printed, compared and used as a key, but not be computed
  // with. REQUIRES: `digits` is the decimal number that Python's str() gives.
  static Value BigInt(std::string digits);
  // `why` is the message of the error when the template uses the value.
  static Value Undefined(std::string why);
  static Value Of(Kind kind, std::shared_ptr<Object> object);
  // REQUIRES: no item nests deeper than kMaxValueDepth - 1 (MakeList and MakeDict of budget.h
  // check).
  static Value List(std::vector<Value> items);
  static Value Tuple(std::vector<Value> items);
  static Value FromDict(std::shared_ptr<Dict> dict);
  // A sequence that can be read only once, like Python's generators.
  static Value Generator(std::vector<Value> items);

  Kind kind() const { return kind_; }
  bool Is(Kind kind) const { return kind_ == kind; }
  bool is_string() const { return kind_ == Kind::kString; }
  bool is_undefined() const { return kind_ == Kind::kUndefined; }
  bool is_none() const { return kind_ == Kind::kNone; }
  bool is_dict() const { return kind_ == Kind::kDict; }
  // A list or a tuple.
  bool is_list_like() const { return kind_ == Kind::kList || kind_ == Kind::kTuple; }
  // An int or a bool: Python's bool is an int.
  bool is_integral() const { return kind_ == Kind::kInt || kind_ == Kind::kBool; }
  bool is_number() const { return is_integral() || kind_ == Kind::kFloat; }

  // Each accessor REQUIRES the kind in its name.
  bool boolean() const { return integer_ != 0; }
  int64_t integer() const { return integer_; }  // kInt or kBool
  double real() const { return real_; }
  double number() const { return kind_ == Kind::kFloat ? real_ : static_cast<double>(integer_); }
  const std::string& text() const;          // kString, or the digits of kBigInt
  bool is_markup() const;                   // false if the value is not a string
  const std::vector<Value>& items() const;  // kList or kTuple
  const Dict& dict() const;
  const std::string& undefined_reason() const;
  const Range& range() const;
  const View& view() const;
  Iterator& iterator() const;
  Namespace& name_space() const;
  Loop& loop() const;
  const Function& function() const;
  const Macro& macro() const;

  const std::shared_ptr<Object>& object() const { return object_; }
  // 0 for a scalar, 1 + the depth of the deepest item for a container.
  int depth() const;
  // Python's `bool(value)`.
  bool Truthy() const;
  // Python's `left is right`, as far as a template can observe it.
  bool SameAs(const Value& other) const;
  // Python's name of the type: "str", "NoneType", "dict_items".
  absl::string_view TypeName() const;

 private:
  explicit Value(Kind kind) : kind_(kind) {}

  Kind kind_ = Kind::kUndefined;
  union {
    int64_t integer_ = 0;
    double real_;
  };
  std::shared_ptr<Object> object_;
};

// A mapping in insertion order. Keys are scalars or tuples of scalars. As in Python, 1, 1.0 and
// True are the same key.
class Dict final : public Object {
 public:
  using Entry = std::pair<Value, Value>;

  const std::vector<Entry>& entries() const { return entries_; }
  size_t size() const { return entries_.size(); }
  int depth() const { return depth_; }
  // Returns null if the key is absent. REQUIRES: IsHashable(key).
  const Value* Find(const Value& key) const;
  const Value* Find(absl::string_view key) const;
  // Adds or overwrites an entry; an overwritten entry keeps its place. REQUIRES: IsHashable(key),
  // and the dict is not shared yet.
  void Set(Value key, Value value);

 private:
  // The index of the entry with the canonical key; -1 if absent.
  int64_t IndexOf(absl::string_view canonical) const;

  std::vector<Entry> entries_;
  absl::flat_hash_map<std::string, size_t> index_;  // canonical key -> entries_ index
  int depth_ = 1;
};

// Returns true for values that may be keys of a dict or members of a set.
bool IsHashable(const Value& value);
// A text that is the same for keys that are equal in Python. REQUIRES: IsHashable(value).
std::string CanonicalKey(const Value& value);

struct Range : Object {
  int64_t start = 0;
  int64_t stop = 0;
  int64_t step = 1;
  int64_t size = 0;
  // Computed in unsigned arithmetic, because a range may span more than 63 bits.
  int64_t At(int64_t index) const {
    return static_cast<int64_t>(static_cast<uint64_t>(start) +
                                static_cast<uint64_t>(index) * static_cast<uint64_t>(step));
  }
};

// The result of dict.keys(), dict.values() or dict.items().
struct View : Object {
  enum class Part : uint8_t { kKeys, kValues, kItems };
  Value dict;
  Part part = Part::kItems;
  // One element of the view. REQUIRES: index < size of the dict.
  Value At(size_t index) const;
};

struct Iterator : Object {
  std::vector<Value> items;
  size_t next = 0;
  int depth = 1;
};

// A namespace, whose attributes the template may set. RenderState keeps every namespace until the
// end of the rendering and then empties it, so that reference cycles do not leak.
struct Namespace : Object {
  std::vector<std::pair<std::string, Value>> attributes;
  const Value* Find(absl::string_view name) const;
  void Set(absl::string_view name, Value value);
};

}  // namespace tessera::jinja
