// The memory of a StepBatch's arrays, and spans of this memory. The engine owns and fills an arena
// on its thread. Any thread or process that has a copy of the bytes may read them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/base/types.h"

namespace tessera {

// An array of T in an arena.
template <class T>
struct ArenaSpan {
  uint32_t offset = 0;  // number of bytes from the start of the arena
  uint32_t count = 0;   // number of elements
};

// Owns the bytes of a StepBatch's arrays. Later steps reuse an arena, which then allocates memory
// only while it grows. Spans are relative to the arena's start, so the bytes may be copied
// anywhere.
class BatchArena {
 public:
  void Clear() { bytes_.clear(); }

  // Adds `count` zero-initialised elements. Each Add invalidates pointers from data().
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
