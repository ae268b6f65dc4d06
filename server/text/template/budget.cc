#include "server/text/template/budget.h"

#include "kernels/base/status.h"

namespace tessera::jinja {
namespace {

absl::StatusOr<Value> Checked(Budget& budget, size_t num_items, Value value) {
  RETURN_IF_ERROR(budget.Build((num_items + 1) * sizeof(Value)));
  if (value.depth() > kMaxValueDepth) {
    return Error("a value nests deeper than ", kMaxValueDepth, " lists or mappings");
  }
  return value;
}

}  // namespace

absl::StatusOr<Value> MakeString(Budget& budget, std::string text) {
  RETURN_IF_ERROR(budget.Build(text.size() + sizeof(Value)));
  return Value::String(std::move(text));
}

absl::StatusOr<Value> MakeList(Budget& budget, std::vector<Value> items) {
  const size_t num_items = items.size();
  return Checked(budget, num_items, Value::List(std::move(items)));
}

absl::StatusOr<Value> MakeTuple(Budget& budget, std::vector<Value> items) {
  const size_t num_items = items.size();
  return Checked(budget, num_items, Value::Tuple(std::move(items)));
}

absl::StatusOr<Value> MakeGenerator(Budget& budget, std::vector<Value> items) {
  const size_t num_items = items.size();
  return Checked(budget, num_items, Value::Generator(std::move(items)));
}

absl::StatusOr<Value> MakeDict(Budget& budget, std::shared_ptr<Dict> dict) {
  const size_t num_items = 2 * dict->size();
  return Checked(budget, num_items, Value::FromDict(std::move(dict)));
}

}  // namespace tessera::jinja
