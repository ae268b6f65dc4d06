#include "tests/lib/core_driver.h"

#include <utility>
#include <vector>

#include "kernels/base/log.h"

namespace tessera::testing {

CoreDriver::CoreDriver(EngineCore* core, const Clock* clock, std::function<void()> finish_oldest)
    : core_(core),
      clock_(clock),
      finish_oldest_(std::move(finish_oldest)),
      done_(std::make_shared<Mailbox<Completion>>()) {
  core_->runner()->SetOnDone([done = done_](Completion step) { done->Send(std::move(step)); });
  core_->BeginRound(clock_->NowUs());  // a test may call the core before the first round
}

bool CoreDriver::RunOnce() {
  bool did_anything = LaunchStep();
  const int num_inflight = core_->num_inflight();
  const bool full = num_inflight == core_->runner()->depth();
  if (full || (!did_anything && num_inflight > 0)) {
    RetireOldest();
    did_anything = true;
  }
  return did_anything;
}

bool CoreDriver::LaunchStep() {
  core_->BeginRound(clock_->NowUs());
  const bool did_anything = core_->LaunchStep();
  core_->EndRound();
  return did_anything;
}

void CoreDriver::RetireOldest() {
  if (finish_oldest_) finish_oldest_();
  std::vector<Completion> done;
  done_->Drain(&done, /*timeout_us=*/-1);
  CHECK_EQ(done.size(), 1u);
  core_->BeginRound(clock_->NowUs());
  core_->OnStepDone(done[0].ticket);
  core_->EndRound();
}

}  // namespace tessera::testing
