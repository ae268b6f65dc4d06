// Creates a backend by its name. Only this source of kernels/device depends on particular backends.
#include "kernels/device/backend.h"

#include <cstdlib>
#include <memory>
#include <string>

#include "kernels/cpu/work_plan.h"

namespace tessera {

std::unique_ptr<Backend> NewBackend(const std::string& name, ThreadTeam* team, Comm* comm,
                                    std::string* error) {
  if (name == "ref") return NewRefBackend(comm);
  std::unique_ptr<Backend> backend = NewCpuBackend(name, team, comm);
  if (backend != nullptr) return backend;
  const char* const forced = std::getenv("TESSERA_CPU_ISA");
  *error = "this machine has no CPU backend \"" +
           (name.empty() && forced != nullptr ? std::string(forced) : name) + "\"; it has: ref";
  for (const std::string& isa : CpuIsas()) *error += ", " + isa;
  return nullptr;
}

WorkPlan PlanWork(const std::string& name, const StepShape& shape, const StepBounds& bounds,
                  int num_threads) {
  if (name == "ref") return {};
  return cpu::PlanWork(shape, bounds, num_threads);
}

}  // namespace tessera
