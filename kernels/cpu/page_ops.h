// Executes a batch's slot updates and page ops, which change slot tokens and page contents between
// steps. Called on the rank thread.
#pragma once

#include "kernels/base/thread_team.h"
#include "kernels/device/backend.h"

namespace tessera::cpu {

// Executes the batch's slot updates, then its page ops in order. The team works on different layers
// in parallel, because page ops of different layers do not depend on each other.
void ApplyPageOps(const ApplyArgs& args, ThreadTeam* team);

}  // namespace tessera::cpu
