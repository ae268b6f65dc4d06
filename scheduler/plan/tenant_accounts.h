// What each tenant has been served, so that tenants with work share the device by their weights:
// virtual token counters (VTC: Sheng et al., Fairness in Serving Large Language Models, OSDI 2024,
// algorithm 2). The counter of a tenant is the device time that it has used, divided by its weight.
// Waiting sequences of the tenant with the smallest counter come first. A tenant that was away
// earns no credit for that time: its counter is lifted when it has something to wait for again.
//
// Device time is measured: each step's time is divided among its sequences by their predicted
// costs (Scheduler::OnStepDone).
//
// Owned by the scheduler; engine thread only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tessera {

struct TenantLimits {
  // Tenants with work get device time and slots in proportion to their weights. At least 1.
  int32_t weight = 1;
  // The largest number of running sequences of the tenant. A further sequence waits, and blocks
  // nobody else. 0: no limit.
  int32_t max_running = 0;
};

class TenantAccounts final {
 public:
  // `num_slots`: the largest number of running sequences of all tenants.
  explicit TenantAccounts(int64_t num_slots) : num_slots_(num_slots), accounts_(1) {}

  // A new tenant has this number. Tenant 0 is open from the beginning, with the default limits.
  // REQUIRES: nothing of an earlier tenant with this number waits or runs.
  void Open(int32_t tenant, const TenantLimits& limits);

  // A sequence of the tenant joins (1) or leaves (-1) those that wait or run. Sequences that are
  // paused while they wait count in neither.
  void CountWaiting(int32_t tenant, int sign);
  void CountRunning(int32_t tenant, int sign);
  // The tenant has used this device time.
  void Charge(int32_t tenant, double device_us);

  // Whether more than one tenant has sequences that wait or run. If not, shares mean nothing.
  bool several() const { return num_active_ > 1; }
  // The counter of the tenant, in microseconds of device time for a weight of 1.
  double used_us(int32_t tenant) const { return Of(tenant).used_us; }
  int64_t num_running(int32_t tenant) const { return Of(tenant).num_running; }
  // The number of further sequences of the tenant that may run.
  int64_t room_to_run(int32_t tenant) const;
  // Running sequences for a weight of 1.
  double load(int32_t tenant) const;
  // Whether `num_running` sequences are more than the tenant's share of the slots, which the
  // tenants with work divide by their weights.
  bool IsOverShare(int32_t tenant, int64_t num_running) const;
  double weight(int32_t tenant) const { return Of(tenant).limits.weight; }

  // CHECK-fails unless the sums agree with the tenants.
  void CheckInvariants() const;

 private:
  struct Account {
    TenantLimits limits;
    double used_us = 0.0;
    int64_t num_waiting = 0;
    int64_t num_running = 0;
    bool active() const { return num_waiting > 0 || num_running > 0; }
  };

  const Account& Of(int32_t tenant) const { return accounts_[static_cast<size_t>(tenant)]; }
  void Lift(Account* account) const;
  template <class Change>
  void Update(int32_t tenant, Change change);

  const int64_t num_slots_;
  std::vector<Account> accounts_;  // [tenant number]
  int64_t num_active_ = 0;
  int64_t num_backlogged_ = 0;  // tenants with waiting sequences
  int64_t active_weight_ = 0;   // sum over the active tenants
  double last_left_us_ = 0.0;   // the counter of the tenant that was the last to have none waiting
};

}  // namespace tessera
