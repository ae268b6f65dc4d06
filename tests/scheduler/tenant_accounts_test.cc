// Tests of the counters of tenants: when they are lifted, what a weight does, and the sums.
#include "scheduler/plan/tenant_accounts.h"

#include <gtest/gtest.h>

#include <random>

namespace tessera {
namespace {

constexpr int32_t kRed = 0;
constexpr int32_t kBlue = 1;
constexpr int32_t kGreen = 2;

class TenantAccountsTest : public ::testing::Test {
 protected:
  TenantAccountsTest() {
    for (const int32_t tenant : {kRed, kBlue, kGreen}) accounts_.Open(tenant, {});
  }

  TenantAccounts accounts_{/*num_slots=*/12};
};

TEST_F(TenantAccountsTest, SeveralTenantsHaveWorkIfTwoWaitOrRun) {
  EXPECT_FALSE(accounts_.several());
  accounts_.CountWaiting(kRed, 1);
  accounts_.CountRunning(kRed, 1);
  EXPECT_FALSE(accounts_.several());
  accounts_.CountRunning(kBlue, 1);
  EXPECT_TRUE(accounts_.several());
  accounts_.CountRunning(kBlue, -1);
  EXPECT_FALSE(accounts_.several());
  accounts_.CheckInvariants();
}

TEST_F(TenantAccountsTest, AWeightDividesWhatIsCharged) {
  accounts_.Open(kBlue, {.weight = 4});
  accounts_.Charge(kRed, 100.0);
  accounts_.Charge(kBlue, 100.0);
  EXPECT_EQ(accounts_.used_us(kRed), 100.0);
  EXPECT_EQ(accounts_.used_us(kBlue), 25.0);
}

TEST_F(TenantAccountsTest, ATenantThatWasAwayHasNoCredit) {
  accounts_.CountWaiting(kRed, 1);
  accounts_.CountWaiting(kBlue, 1);
  accounts_.Charge(kRed, 500.0);
  accounts_.Charge(kBlue, 300.0);
  accounts_.CountWaiting(kGreen, 1);
  EXPECT_EQ(accounts_.used_us(kGreen), 300.0) << "the least of those that wait";
  // A tenant whose sequences only run is not among those that wait.
  accounts_.CountWaiting(kGreen, -1);
  accounts_.CountRunning(kGreen, 1);
  accounts_.Charge(kRed, 1000.0);
  accounts_.Charge(kBlue, 1000.0);
  accounts_.CountWaiting(kGreen, 1);
  EXPECT_EQ(accounts_.used_us(kGreen), 1300.0);
}

TEST_F(TenantAccountsTest, ATenantThatComesBackKeepsWhatItHasUsed) {
  accounts_.CountWaiting(kRed, 1);
  accounts_.CountWaiting(kBlue, 1);
  accounts_.CountWaiting(kBlue, -1);
  accounts_.Charge(kBlue, 700.0);
  accounts_.CountWaiting(kBlue, 1);
  EXPECT_EQ(accounts_.used_us(kBlue), 700.0);
}

TEST_F(TenantAccountsTest, WhenNobodyWaitsTheLastOneThatDidCounts) {
  accounts_.CountWaiting(kRed, 1);
  accounts_.Charge(kRed, 900.0);
  accounts_.CountWaiting(kRed, -1);
  accounts_.CountWaiting(kBlue, 1);
  EXPECT_EQ(accounts_.used_us(kBlue), 900.0);
}

TEST_F(TenantAccountsTest, SlotsAreDividedByTheWeightsOfThoseWithWork) {
  accounts_.Open(kBlue, {.weight = 2});
  accounts_.CountRunning(kRed, 1);
  EXPECT_FALSE(accounts_.IsOverShare(kRed, 12)) << "all slots are its own while it is alone";
  accounts_.CountWaiting(kBlue, 1);
  EXPECT_FALSE(accounts_.IsOverShare(kRed, 4));
  EXPECT_TRUE(accounts_.IsOverShare(kRed, 5));
  EXPECT_FALSE(accounts_.IsOverShare(kBlue, 8));
  EXPECT_TRUE(accounts_.IsOverShare(kBlue, 9));
}

TEST_F(TenantAccountsTest, ALimitLeavesRoomForTheRest) {
  accounts_.Open(kRed, {.weight = 1, .max_running = 2});
  EXPECT_EQ(accounts_.room_to_run(kRed), 2);
  accounts_.CountRunning(kRed, 1);
  EXPECT_EQ(accounts_.room_to_run(kRed), 1);
  accounts_.CountRunning(kRed, 1);
  EXPECT_EQ(accounts_.room_to_run(kRed), 0);
  EXPECT_GT(accounts_.room_to_run(kBlue), 1'000'000);
}

TEST_F(TenantAccountsTest, TheSumsAgreeAfterAnyChanges) {
  std::mt19937 random(11);
  int64_t waiting[3] = {};
  int64_t running[3] = {};
  for (int i = 0; i < 20'000; ++i) {
    const auto tenant = static_cast<int32_t>(random() % 3);
    int64_t& count = random() % 2 == 0 ? waiting[tenant] : running[tenant];
    const int sign = count > 0 && random() % 2 == 0 ? -1 : 1;
    count += sign;
    if (&count == &waiting[tenant]) {
      accounts_.CountWaiting(tenant, sign);
    } else {
      accounts_.CountRunning(tenant, sign);
    }
    accounts_.CheckInvariants();
    ASSERT_EQ(accounts_.num_running(tenant), running[tenant]);
    if (waiting[tenant] == 0 && running[tenant] == 0 && random() % 4 == 0) {
      accounts_.Open(tenant, {.weight = static_cast<int32_t>(1 + random() % 5)});
    }
  }
}

}  // namespace
}  // namespace tessera
