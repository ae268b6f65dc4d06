#include "scheduler/plan/slabs.h"

namespace tessera {

int64_t HeldSlabs(const KvState& state, const PageLayout& layout) {
  int64_t num_pages = 0;
  for (const KvGroupState& group : state.groups) {
    num_pages += static_cast<int64_t>(group.pages.size()) - group.first_live_page;
  }
  return num_pages * layout.slabs_per_page;
}

int64_t ReserveSlabs(const SchedulerOptions& options, const KvManager& kv,
                     int64_t outstanding_slabs) {
  const auto total = static_cast<double>(kv.usage().total_slabs);
  return outstanding_slabs + static_cast<int64_t>(options.watermark * total);
}

}  // namespace tessera
