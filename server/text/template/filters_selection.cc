// The filters that map, select, sort and group the items of a sequence.
#include <algorithm>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status.h"
#include "server/text/template/access.h"
#include "server/text/template/filters.h"
#include "server/text/template/operators.h"
#include "server/text/template/unicode.h"

namespace tessera::jinja {
namespace {

// Reads the sort keys of items: an attribute of the item (or the item itself), in lower case unless
// the comparison is case-sensitive.
class KeyReader final {
 public:
  KeyReader(Budget& budget, Value path, bool case_sensitive, Value fallback = Value::None())
      : budget_(budget),
        path_(std::move(path)),
        fallback_(std::move(fallback)),
        case_sensitive_(case_sensitive) {}

  // The attribute without conversion to lower case.
  absl::StatusOr<Value> Raw(const Value& item) const {
    if (path_.is_none()) return item;
    return GetPath(budget_, item, path_, fallback_);
  }

  absl::StatusOr<Value> Key(const Value& item) const {
    ASSIGN_OR_RETURN(Value value, Raw(item));
    return Folded(std::move(value));
  }

  // The key for a path that names several attributes, separated by commas: a list of their keys.
  absl::StatusOr<Value> MultiKey(const Value& item) const {
    if (!path_.is_string()) return Key(item);
    std::vector<Value> keys;
    for (const absl::string_view part : absl::StrSplit(path_.text(), ',')) {
      ASSIGN_OR_RETURN(Value value, GetPath(budget_, item, Value::String(std::string(part))));
      ASSIGN_OR_RETURN(value, Folded(std::move(value)));
      keys.push_back(std::move(value));
    }
    return MakeList(budget_, std::move(keys));
  }

 private:
  absl::StatusOr<Value> Folded(Value value) const {
    if (case_sensitive_ || !value.is_string()) return value;
    return MakeString(budget_, Lower(value.text()));
  }

  Budget& budget_;
  const Value path_;
  const Value fallback_;
  const bool case_sensitive_;
};

struct Keyed {
  Value key;
  Value item;
};

// Sorts stably. As in Python's sorted(), the reverse order is stable too.
absl::Status SortByKey(Budget& budget, bool reverse, std::vector<Keyed>* items) {
  absl::Status failure;
  std::stable_sort(items->begin(), items->end(), [&](const Keyed& left, const Keyed& right) {
    if (!failure.ok()) return false;
    const absl::StatusOr<bool> less =
        reverse ? LessThan(budget, right.key, left.key) : LessThan(budget, left.key, right.key);
    if (less.ok()) return *less;
    failure = less.status();
    return false;
  });
  return failure;
}

absl::StatusOr<Value> Sort(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound,
                   Bind("sort", args, 0, {"reverse", "case_sensitive", "attribute"}));
  const KeyReader reader(budget, bound.Get(2, Value::None()), bound.GetBool(1, false));
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(budget, self));
  std::vector<Keyed> keyed;
  for (const Value& item : items) {
    ASSIGN_OR_RETURN(Value key, reader.MultiKey(item));
    keyed.push_back({std::move(key), item});
  }
  RETURN_IF_ERROR(SortByKey(budget, bound.GetBool(0, false), &keyed));
  std::vector<Value> sorted;
  sorted.reserve(keyed.size());
  for (Keyed& entry : keyed) sorted.push_back(std::move(entry.item));
  return MakeList(budget, std::move(sorted));
}

absl::StatusOr<Value> DictSort(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound,
                   Bind("dictsort", args, 0, {"case_sensitive", "by", "reverse"}));
  ASSIGN_OR_RETURN(const absl::string_view by, bound.GetText(1, "key"));
  if (by != "key" && by != "value")
    return Error("You can only sort by either \"key\" or \"value\"");
  if (self.is_undefined()) return Error(self.undefined_reason());
  if (!self.is_dict()) return Error("dictsort needs a mapping, not '", self.TypeName(), "'");
  const KeyReader reader(budget, Value::None(), bound.GetBool(0, false));
  std::vector<Keyed> keyed;
  for (const auto& [key, value] : self.dict().entries()) {
    ASSIGN_OR_RETURN(Value order, reader.Key(by == "key" ? key : value));
    ASSIGN_OR_RETURN(Value pair, MakeTuple(budget, {key, value}));
    keyed.push_back({std::move(order), std::move(pair)});
  }
  RETURN_IF_ERROR(SortByKey(budget, bound.GetBool(2, false), &keyed));
  std::vector<Value> sorted;
  sorted.reserve(keyed.size());
  for (Keyed& entry : keyed) sorted.push_back(std::move(entry.item));
  return MakeList(budget, std::move(sorted));
}

absl::StatusOr<Value> Unique(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("unique", args, 0, {"case_sensitive", "attribute"}));
  const KeyReader reader(budget, bound.Get(1, Value::None()), bound.GetBool(0, false));
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(budget, self));
  absl::flat_hash_set<std::string> seen;
  std::vector<Value> kept;
  for (const Value& item : items) {
    ASSIGN_OR_RETURN(const Value key, reader.Key(item));
    if (!IsHashable(key)) return Error("unhashable type: '", key.TypeName(), "'");
    RETURN_IF_ERROR(SpendOnKey(budget, key));
    if (seen.insert(CanonicalKey(key)).second) kept.push_back(item);
  }
  return MakeGenerator(budget, std::move(kept));
}

template <CompareOp kBetter>
absl::StatusOr<Value> Extreme(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound,
                   Bind("min or max", args, 0, {"case_sensitive", "attribute"}));
  const KeyReader reader(budget, bound.Get(1, Value::None()), bound.GetBool(0, false));
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(budget, self));
  if (items.empty()) return Value::Undefined("No aggregated item, sequence was empty.");
  Value best = items.front();
  ASSIGN_OR_RETURN(Value best_key, reader.Key(best));
  for (size_t i = 1; i < items.size(); ++i) {
    ASSIGN_OR_RETURN(Value key, reader.Key(items[i]));
    ASSIGN_OR_RETURN(const bool better, Compare(budget, kBetter, key, best_key));
    if (!better) continue;
    best = items[i];
    best_key = std::move(key);
  }
  return best;
}

absl::StatusOr<Value> GroupBy(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound,
                   Bind("groupby", args, 1, {"attribute", "default", "case_sensitive"}));
  const KeyReader reader(budget, bound[0], bound.GetBool(2, false), bound.Get(1, Value::None()));
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(budget, self));
  std::vector<Keyed> keyed;
  for (const Value& item : items) {
    ASSIGN_OR_RETURN(Value key, reader.Key(item));
    keyed.push_back({std::move(key), item});
  }
  RETURN_IF_ERROR(SortByKey(budget, false, &keyed));
  std::vector<Value> groups;
  for (size_t begin = 0; begin < keyed.size();) {
    std::vector<Value> members;
    size_t end = begin;
    for (; end < keyed.size(); ++end) {
      ASSIGN_OR_RETURN(const bool same, Equals(budget, keyed[begin].key, keyed[end].key));
      if (!same) break;
      members.push_back(keyed[end].item);
    }
    ASSIGN_OR_RETURN(Value grouper, reader.Raw(keyed[begin].item));
    ASSIGN_OR_RETURN(Value list, MakeList(budget, std::move(members)));
    ASSIGN_OR_RETURN(Value group, MakeTuple(budget, {std::move(grouper), std::move(list)}));
    groups.push_back(std::move(group));
    begin = std::max(end, begin + 1);
  }
  return MakeList(budget, std::move(groups));
}

// Implements map(attribute=..., default=...) and map("filter", arguments...).
absl::StatusOr<Value> Map(Budget& budget, const Value& self, const CallArgs& args) {
  if (!self.Truthy()) return MakeGenerator(budget, {});
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(budget, self));
  std::vector<Value> mapped;
  mapped.reserve(items.size());
  if (args.positional.empty()) {
    ASSIGN_OR_RETURN(const BoundArgs bound, Bind("map", args, 0, {"attribute", "default"}));
    if (!bound.Has(0)) return Error("map requires a filter argument");
    const KeyReader reader(budget, bound[0], true, bound.Get(1, Value::None()));
    for (const Value& item : items) {
      ASSIGN_OR_RETURN(Value value, reader.Raw(item));
      mapped.push_back(std::move(value));
    }
    return MakeGenerator(budget, std::move(mapped));
  }
  const Value& name = args.positional[0];
  const NativeFunction filter = name.is_string() ? FindFilter(name.text()) : nullptr;
  if (filter == nullptr) {
    return Error("map: no filter named '", name.is_string() ? name.text() : "", "'");
  }
  CallArgs rest = args;
  rest.positional.erase(rest.positional.begin());
  for (const Value& item : items) {
    RETURN_IF_ERROR(budget.Spend(Budget::kStepCost));
    ASSIGN_OR_RETURN(Value value, filter(budget, item, rest));
    mapped.push_back(std::move(value));
  }
  return MakeGenerator(budget, std::move(mapped));
}

// Implements select and reject with (test, arguments...), and selectattr and rejectattr with
// (attribute, test, arguments...).
template <bool kByAttribute, bool kKeeps>
absl::StatusOr<Value> Select(Budget& budget, const Value& self, const CallArgs& args) {
  if (!self.Truthy()) return MakeGenerator(budget, {});
  const size_t test_index = kByAttribute ? 1 : 0;
  if (args.positional.size() < test_index) return Error("Missing parameter for attribute name");
  NativeFunction test = nullptr;
  CallArgs rest = args;
  if (args.positional.size() > test_index) {
    const Value& name = args.positional[test_index];
    test = name.is_string() ? FindTest(name.text()) : nullptr;
    if (test == nullptr) return Error("No test named '", name.is_string() ? name.text() : "", "'.");
    rest.positional.erase(rest.positional.begin(),
                          rest.positional.begin() + static_cast<ptrdiff_t>(test_index) + 1);
  }
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(budget, self));
  std::vector<Value> kept;
  for (const Value& item : items) {
    RETURN_IF_ERROR(budget.Spend(Budget::kStepCost));
    Value subject = item;
    if (kByAttribute) {
      ASSIGN_OR_RETURN(subject, GetPath(budget, item, args.positional[0]));
    }
    if (test != nullptr) {
      ASSIGN_OR_RETURN(subject, test(budget, subject, rest));
    }
    if (subject.Truthy() == kKeeps) kept.push_back(item);
  }
  return MakeGenerator(budget, std::move(kept));
}

constexpr NamedFunction kSelectionFilters[] = {
    {"map", Map},
    {"select", Select<false, true>},
    {"reject", Select<false, false>},
    {"selectattr", Select<true, true>},
    {"rejectattr", Select<true, false>},
    {"sort", Sort},
    {"dictsort", DictSort},
    {"unique", Unique},
    {"min", Extreme<CompareOp::kLt>},
    {"max", Extreme<CompareOp::kGt>},
    {"groupby", GroupBy},
};

}  // namespace

NativeFunction FindSelectionFilter(absl::string_view name) {
  return FindNamed(kSelectionFilters, name);
}

}  // namespace tessera::jinja
