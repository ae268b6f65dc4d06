// The bytes behind a StepBatch, and spans of them. The engine fills an arena, whoever has a copy of
// the bytes reads it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/base/types.h"

namespace tessera {

template <class T>
struct ArenaSpan {
  uint32_t offset = 0;  // bytes from the arena's begin
  uint32_t count = 0;   // elements
};

// Owns the bytes behind a StepBatch; reused from step to step without allocating once it has grown.
// Spans are relative, so the bytes may be copied anywhere.
class BatchArena {
 public:
  void Clear() { bytes_.clear(); }

  // Zero-initialised room for `count` elements. Pointers from data() are invalid after the next
  // Add.
  template <class T>
  ArenaSpan<T> Add(size_t count) {
    const size_t offset = RoundUp(bytes_.size(), alignof(std::max_align_t));
    bytes_.resize(offset + count * sizeof(T));
    return {static_cast<uint32_t>(offset), static_cast<uint32_t>(count)};
  }
  template <class T>
  ArenaSpan<T> AddCopy(const std::vector<T>& values) {
    const ArenaSpan<T> span = Add<T>(values.size());
    if (!values.empty()) std::memcpy(data(span), values.data(), values.size() * sizeof(T));
    return span;
  }
  template <class T>
  T* data(ArenaSpan<T> span) {
    return reinterpret_cast<T*>(bytes_.data() + span.offset);
  }
  template <class T>
  const T* data(ArenaSpan<T> span) const {
    return reinterpret_cast<const T*>(bytes_.data() + span.offset);
  }
  const char* base() const { return bytes_.data(); }
  size_t size() const { return bytes_.size(); }

 private:
  std::vector<char> bytes_;
};

}  // namespace tessera
