// Slot updates and page ops: changes of page contents between steps.
#pragma once

#include "kernels/base/thread_team.h"
#include "kernels/device/backend.h"

namespace tessera::cpu {

// Executes the batch's slot updates, then its page ops in order. Layers are independent of each
// other and are shared out over the team.
void ApplyPageOps(const ApplyArgs& args, ThreadTeam* team);

}  // namespace tessera::cpu
