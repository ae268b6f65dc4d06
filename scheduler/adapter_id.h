// What an adapter is called inside: a version of an adapter or a blend (adapter_registry.h).
#pragma once

#include <cstdint>
#include <string>

namespace tessera {

using AdapterId = int32_t;  // never reused
inline constexpr AdapterId kNoAdapter = -1;

struct ResolvedAdapter {
  AdapterId id = kNoAdapter;
  std::string key;  // names the content; part of the prefix root
};

}  // namespace tessera
