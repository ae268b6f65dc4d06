// Hidden taps for backends whose memory is the host's: rows of the residual stream as outputs of a
// step. Pure; any thread.
#pragma once

#include "kernels/device/backend.h"

namespace tessera {

void WriteHiddenTaps(const HiddenTapArgs& args);

}  // namespace tessera
