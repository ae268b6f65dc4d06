// Writes the hidden taps of a step, which are copies of rows of the residual stream that the batch
// asks for (TapKind::kHidden in kernels/step/batch.h). For backends whose device memory is host
// memory. Uses no state; any thread.
#pragma once

#include "kernels/device/backend.h"

namespace tessera {

void WriteHiddenTaps(const HiddenTapArgs& args);

}  // namespace tessera
