// The filters that read or return sequences and mappings.
#include <algorithm>

#include "kernels/base/status.h"
#include "server/text/template/access.h"
#include "server/text/template/filters.h"
#include "server/text/template/operators.h"
#include "server/text/template/python_text.h"
#include "server/text/template/unicode.h"

namespace tessera::jinja {
namespace {

absl::StatusOr<Value> LengthOf(Budget& budget, const Value& self, const CallArgs& args) {
  RETURN_IF_ERROR(Bind("length", args, 0, {}).status());
  ASSIGN_OR_RETURN(const int64_t length, Length(budget, self));
  return Value::Int(length);
}

absl::StatusOr<Value> First(Budget& budget, const Value& self, const CallArgs& args) {
  RETURN_IF_ERROR(Bind("first", args, 0, {}).status());
  if (self.Is(Kind::kIterator)) {
    Iterator& iterator = self.iterator();
    if (iterator.next < iterator.items.size()) return iterator.items[iterator.next++];
  } else if (self.is_list_like()) {
    if (!self.items().empty()) return self.items().front();
  } else {
    ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(budget, self));
    if (!items.empty()) return items.front();
  }
  return Value::Undefined("No first item, sequence was empty.");
}

absl::StatusOr<Value> Last(Budget& budget, const Value& self, const CallArgs& args) {
  RETURN_IF_ERROR(Bind("last", args, 0, {}).status());
  if (self.Is(Kind::kIterator)) return Error("'generator' object is not reversible");
  if (self.is_list_like() && !self.items().empty()) return self.items().back();
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(budget, self));
  if (!items.empty()) return items.back();
  return Value::Undefined("No last item, sequence was empty.");
}

// Draws an item. The numbers are determined by the time of the rendering, so that a rendering can
// be repeated.
absl::StatusOr<Value> Random(Budget& budget, const Value& self, const CallArgs& args) {
  RETURN_IF_ERROR(Bind("random", args, 0, {}).status());
  const bool is_sequence = self.is_string() || self.is_list_like() || self.Is(Kind::kRange);
  if (!is_sequence && !self.is_undefined()) {
    return Error("random: the value must be a sequence, not '", self.TypeName(), "'");
  }
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(budget, self));
  if (items.empty()) return Value::Undefined("No random item, sequence was empty.");
  return items[budget.Random(items.size())];
}

absl::StatusOr<Value> Join(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("join", args, 0, {"d", "attribute"}));
  std::string separator;
  if (bound.Has(0)) {
    ASSIGN_OR_RETURN(separator, Str(budget, bound[0]));
  }
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(budget, self));
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i != 0) {
      RETURN_IF_ERROR(budget.Build(separator.size()));
      out += separator;
    }
    Value item = items[i];
    if (bound.Has(1) && !bound[1].is_none()) {
      ASSIGN_OR_RETURN(item, GetPath(budget, item, bound[1]));
    }
    RETURN_IF_ERROR(AppendStr(budget, item, &out));
  }
  return MakeString(budget, std::move(out));
}

absl::StatusOr<Value> ListOf(Budget& budget, const Value& self, const CallArgs& args) {
  RETURN_IF_ERROR(Bind("list", args, 0, {}).status());
  ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(budget, self));
  return MakeList(budget, std::move(items));
}

absl::StatusOr<Value> Items(Budget& budget, const Value& self, const CallArgs& args) {
  RETURN_IF_ERROR(Bind("items", args, 0, {}).status());
  if (self.is_undefined()) return MakeGenerator(budget, {});
  if (!self.is_dict()) return Error("Can only get item pairs from a mapping.");
  RETURN_IF_ERROR(budget.Build(self.dict().size() * 4 * sizeof(Value)));
  std::vector<Value> pairs;
  pairs.reserve(self.dict().size());
  for (const auto& [key, value] : self.dict().entries())
    pairs.push_back(Value::Tuple({key, value}));
  return MakeGenerator(budget, std::move(pairs));
}

absl::StatusOr<Value> Reverse(Budget& budget, const Value& self, const CallArgs& args) {
  RETURN_IF_ERROR(Bind("reverse", args, 0, {}).status());
  if (self.is_string()) {
    return GetSlice(budget, self, Value::None(), Value::None(), Value::Int(-1));
  }
  ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(budget, self));
  std::reverse(items.begin(), items.end());
  return MakeGenerator(budget, std::move(items));
}

absl::StatusOr<Value> Sum(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("sum", args, 0, {"attribute", "start"}));
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(budget, self));
  Value total = bound.Get(1, Value::Int(0));
  if (total.is_string()) return Error("sum() can't sum strings [use ''.join(seq) instead]");
  for (const Value& item : items) {
    Value part = item;
    if (bound.Has(0) && !bound[0].is_none()) {
      ASSIGN_OR_RETURN(part, GetPath(budget, item, bound[0]));
    }
    ASSIGN_OR_RETURN(total, Arithmetic(budget, BinaryOp::kAdd, total, part));
  }
  return total;
}

absl::StatusOr<Value> Batch(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("batch", args, 1, {"linecount", "fill_with"}));
  ASSIGN_OR_RETURN(const int64_t count, bound.GetInt(0, 0));
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(budget, self));
  std::vector<Value> rows;
  std::vector<Value> row;
  for (const Value& item : items) {
    if (static_cast<int64_t>(row.size()) == count) {
      ASSIGN_OR_RETURN(Value full, MakeList(budget, std::move(row)));
      rows.push_back(std::move(full));
      row.clear();
    }
    row.push_back(item);
  }
  if (!row.empty()) {
    const int64_t missing = count - static_cast<int64_t>(row.size());
    if (bound.Has(1) && !bound[1].is_none() && missing > 0) {
      RETURN_IF_ERROR(budget.Build(static_cast<size_t>(missing)));
      RETURN_IF_ERROR(budget.Build(static_cast<size_t>(missing) * sizeof(Value)));
      row.insert(row.end(), static_cast<size_t>(missing), bound[1]);
    }
    ASSIGN_OR_RETURN(Value last, MakeList(budget, std::move(row)));
    rows.push_back(std::move(last));
  }
  return MakeGenerator(budget, std::move(rows));
}

absl::StatusOr<Value> Slice(Budget& budget, const Value& self, const CallArgs& args) {
  ASSIGN_OR_RETURN(const BoundArgs bound, Bind("slice", args, 1, {"slices", "fill_with"}));
  ASSIGN_OR_RETURN(const int64_t slices, bound.GetInt(0, 0));
  if (slices == 0) return Error("integer division or modulo by zero");
  if (slices < 0) return MakeGenerator(budget, {});
  ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(budget, self));
  RETURN_IF_ERROR(budget.Build(static_cast<size_t>(slices)));
  RETURN_IF_ERROR(budget.Build(static_cast<size_t>(slices) * sizeof(Value)));
  const int64_t length = static_cast<int64_t>(items.size());
  const int64_t with_extra = length % slices;
  std::vector<Value> rows;
  auto next = items.begin();
  for (int64_t i = 0; i < slices; ++i) {
    const auto end = next + length / slices + (i < with_extra ? 1 : 0);
    std::vector<Value> row(next, end);
    if (bound.Has(1) && !bound[1].is_none() && i >= with_extra) row.push_back(bound[1]);
    ASSIGN_OR_RETURN(Value made, MakeList(budget, std::move(row)));
    rows.push_back(std::move(made));
    next = end;
  }
  return MakeGenerator(budget, std::move(rows));
}

constexpr NamedFunction kSequenceFilters[] = {
    {"length", LengthOf}, {"count", LengthOf}, {"first", First}, {"last", Last},
    {"join", Join},       {"list", ListOf},    {"items", Items}, {"sum", Sum},
    {"random", Random},   {"batch", Batch},    {"slice", Slice}, {"reverse", Reverse},
};

}  // namespace

NativeFunction FindSequenceFilter(absl::string_view name) {
  return FindNamed(kSequenceFilters, name);
}

}  // namespace tessera::jinja
