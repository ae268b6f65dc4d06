// A KV store of one model and the sequences of a test, which are checked after each verb.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "kvstore/kv_manager.h"
#include "tests/kvstore/kv_test_util.h"

namespace tessera::testing {

class KvManagerTest : public ::testing::Test {
 protected:
  // Makes a store with pages of 4 tokens; num_slabs does not count the null page.
  void Make(int64_t num_slabs, const std::vector<int32_t>& windows = {0}) {
    kv_ = NewKvManager(num_slabs + 1, kSlabBytes, 1);
    model_ = kv_->AddModel(MakeLayout(4, windows));
  }
  KvState* NewState(const std::string& salt = "") {
    states_.push_back(std::make_unique<KvState>());
    states_.back()->model = model_;
    states_.back()->root = RootOfSalt(salt);
    return states_.back().get();
  }
  int64_t Hit(const std::vector<TokenId>& tokens, const std::string& salt = "") {
    return kv_->Match(NewState(salt), tokens).hit_tokens;
  }
  int64_t Announced(const std::vector<TokenId>& tokens) {
    return kv_->Match(NewState(), tokens).announced_tokens;
  }
  // Admits, and makes room for tokens [0, num_tokens). On false the state is admitted and holds its
  // hit only.
  bool AdmitAndGrow(KvState* state, const std::vector<TokenId>& tokens, int64_t num_tokens) {
    kv_->Admit(state, tokens);
    return kv_->Grow(state, num_tokens);
  }
  // Admits and computes all tokens in one step.
  KvState* Run(const std::vector<TokenId>& tokens, const std::string& salt = "") {
    KvState* state = NewState(salt);
    const int64_t hit = kv_->Match(state, tokens).hit_tokens;
    const int64_t num_tokens = static_cast<int64_t>(tokens.size());
    EXPECT_TRUE(AdmitAndGrow(state, tokens, num_tokens));
    EXPECT_EQ(state->num_tokens, hit);
    kv_->Advance(state, tokens, num_tokens);
    Check();
    return state;
  }
  void Release(KvState* state) {
    kv_->Release(state);
    Check();
  }
  void RunAndRelease(const std::vector<TokenId>& tokens) { Release(Run(tokens)); }
  void Check() {
    std::vector<const KvState*> live;
    for (const auto& state : states_) {
      if (state->admitted) live.push_back(state.get());
    }
    kv_->CheckInvariants(live);
    const KvUsage usage = kv_->usage();
    EXPECT_EQ(usage.free_slabs + usage.cached_slabs + usage.kv_slabs + usage.adapter_slabs,
              usage.total_slabs);
  }

  std::unique_ptr<KvManager> kv_;
  int32_t model_ = 0;
  std::vector<std::unique_ptr<KvState>> states_;
};

}  // namespace tessera::testing
