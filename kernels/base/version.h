// The version of the release that this source tree builds.
#pragma once

namespace tessera {

inline constexpr char kVersion[] = "0.1.0";

}  // namespace tessera
