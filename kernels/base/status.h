// Macros that return early from a function when an absl::Status is an error. The message of an
// error that reaches a user tells the user what to change.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define RETURN_IF_ERROR(expression)                                                             \
  do {                                                                                          \
    if (::absl::Status status_macro_ = (expression); !status_macro_.ok()) return status_macro_; \
  } while (0)

#define TESSERA_CONCAT_INNER(a, b) a##b
#define TESSERA_CONCAT(a, b) TESSERA_CONCAT_INNER(a, b)
#define ASSIGN_OR_RETURN(lhs, expression) \
  TESSERA_ASSIGN_OR_RETURN(TESSERA_CONCAT(statusor_, __LINE__), lhs, expression)
#define TESSERA_ASSIGN_OR_RETURN(statusor, lhs, expression) \
  auto statusor = (expression);                             \
  if (!statusor.ok()) return std::move(statusor).status();  \
  lhs = std::move(statusor).value()
