#include "scheduler/plan/tenant_accounts.h"

#include <algorithm>
#include <limits>

#include "kernels/base/log.h"

namespace tessera {

void TenantAccounts::Open(int32_t tenant, const TenantLimits& limits) {
  if (static_cast<size_t>(tenant) >= accounts_.size()) {
    accounts_.resize(static_cast<size_t>(tenant) + 1);
  }
  Account& account = accounts_[static_cast<size_t>(tenant)];
  CHECK(!account.active()) << "tenant " << tenant << " has sequences";
  CHECK_GE(limits.weight, 1);
  account = {};
  account.limits = limits;
}

template <class Change>
void TenantAccounts::Update(int32_t tenant, Change change) {
  Account& account = accounts_[static_cast<size_t>(tenant)];
  const bool was_active = account.active();
  change(&account);
  CHECK(account.num_waiting >= 0 && account.num_running >= 0) << "tenant " << tenant;
  const int becomes = static_cast<int>(account.active()) - static_cast<int>(was_active);
  num_active_ += becomes;
  active_weight_ += becomes * account.limits.weight;
}

void TenantAccounts::CountWaiting(int32_t tenant, int sign) {
  Update(tenant, [this, sign](Account* account) {
    if (account->num_waiting == 0) {
      Lift(account);
      ++num_backlogged_;
    }
    account->num_waiting += sign;
    if (account->num_waiting > 0) return;
    --num_backlogged_;
    if (num_backlogged_ == 0) last_left_us_ = account->used_us;
  });
}

void TenantAccounts::CountRunning(int32_t tenant, int sign) {
  Update(tenant, [sign](Account* account) { account->num_running += sign; });
}

// Lifts the counter to the smallest one of the tenants with waiting sequences; if none has any, to
// that of the last tenant that had.
void TenantAccounts::Lift(Account* account) const {
  double least_us = last_left_us_;
  if (num_backlogged_ > 0) {
    least_us = std::numeric_limits<double>::infinity();
    for (const Account& other : accounts_) {
      if (other.num_waiting > 0) least_us = std::min(least_us, other.used_us);
    }
  }
  account->used_us = std::max(account->used_us, least_us);
}

void TenantAccounts::Charge(int32_t tenant, double device_us) {
  Account& account = accounts_[static_cast<size_t>(tenant)];
  account.used_us += device_us / account.limits.weight;
}

int64_t TenantAccounts::room_to_run(int32_t tenant) const {
  const Account& account = Of(tenant);
  if (account.limits.max_running == 0) return std::numeric_limits<int64_t>::max();
  return std::max<int64_t>(0, account.limits.max_running - account.num_running);
}

double TenantAccounts::load(int32_t tenant) const {
  const Account& account = Of(tenant);
  return static_cast<double>(account.num_running) / account.limits.weight;
}

bool TenantAccounts::IsOverShare(int32_t tenant, int64_t num_running) const {
  return num_running * active_weight_ > num_slots_ * Of(tenant).limits.weight;
}

void TenantAccounts::CheckInvariants() const {
  int64_t num_active = 0;
  int64_t num_backlogged = 0;
  int64_t active_weight = 0;
  for (const Account& account : accounts_) {
    num_backlogged += account.num_waiting > 0 ? 1 : 0;
    if (!account.active()) continue;
    ++num_active;
    active_weight += account.limits.weight;
  }
  CHECK_EQ(num_active, num_active_);
  CHECK_EQ(num_backlogged, num_backlogged_);
  CHECK_EQ(active_weight, active_weight_);
}

}  // namespace tessera
