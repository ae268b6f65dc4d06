#include "server/text/template/callable.h"

#include <algorithm>

namespace tessera::jinja {

absl::StatusOr<int64_t> BoundArgs::GetInt(size_t index, int64_t fallback) const {
  if (!Has(index)) return fallback;
  const Value& value = *slots_[index];
  if (value.is_integral()) return value.integer();
  if (value.Is(Kind::kBigInt)) return Error(function_, ": an integer exceeds 64 bits");
  if (value.is_undefined()) return Error(value.undefined_reason());
  return Error(function_, ": argument '", names_[index], "' must be an integer, not '",
               value.TypeName(), "'");
}

absl::StatusOr<absl::string_view> BoundArgs::GetText(size_t index,
                                                     absl::string_view fallback) const {
  if (!Has(index)) return fallback;
  const Value& value = *slots_[index];
  if (value.is_string()) return absl::string_view(value.text());
  if (value.is_undefined()) return Error(value.undefined_reason());
  return Error(function_, ": argument '", names_[index], "' must be a string, not '",
               value.TypeName(), "'");
}

absl::StatusOr<BoundArgs> Bind(absl::string_view function, const CallArgs& args,
                               size_t num_required,
                               std::initializer_list<absl::string_view> parameters) {
  BoundArgs bound;
  bound.function_ = std::string(function);
  for (const absl::string_view name : parameters) bound.names_.emplace_back(name);
  bound.slots_.assign(parameters.size(), nullptr);
  if (args.positional.size() > parameters.size()) {
    return Error(function, "() takes at most ", parameters.size(), " arguments (",
                 args.positional.size(), " given)");
  }
  for (size_t i = 0; i < args.positional.size(); ++i) bound.slots_[i] = &args.positional[i];
  for (const auto& [name, value] : args.named) {
    const auto found = std::find(bound.names_.begin(), bound.names_.end(), name);
    if (found == bound.names_.end()) {
      return Error(function, "() got an unexpected keyword argument '", name, "'");
    }
    const Value*& slot = bound.slots_[static_cast<size_t>(found - bound.names_.begin())];
    if (slot != nullptr) return Error(function, "() got multiple values for argument '", name, "'");
    slot = &value;
  }
  for (size_t i = 0; i < num_required; ++i) {
    if (bound.slots_[i] == nullptr) {
      return Error(function, "() is missing its argument '", bound.names_[i], "'");
    }
  }
  return bound;
}

}  // namespace tessera::jinja
