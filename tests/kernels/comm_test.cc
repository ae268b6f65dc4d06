// Tests of Comm: if the columns of a weight are split over ranks, Linear sums the products of all
// ranks before its epilogue.
#include "kernels/device/comm.h"

#include <gtest/gtest.h>

#include <array>
#include <barrier>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "kernels/base/thread_team.h"
#include "kernels/device/backend.h"
#include "tests/lib/op_fixtures.h"

namespace tessera::testing {
namespace {

constexpr int kRanks = 2;

// Makes Comms whose ranks are threads of this process.
class Meeting {
 public:
  class Rank final : public Comm {
   public:
    Rank(Meeting* meeting, int rank) : meeting_(meeting), rank_(rank) {}
    int rank() const override { return rank_; }
    int size() const override { return kRanks; }
    void AllReduceSum(float* data, int64_t count) override {
      meeting_->shared_[rank_].assign(data, data + count);
      meeting_->barrier_.arrive_and_wait();
      for (int64_t i = 0; i < count; ++i) {
        float sum = 0.0f;
        for (const std::vector<float>& part : meeting_->shared_) sum += part[i];
        data[i] = sum;
      }
      meeting_->barrier_.arrive_and_wait();
    }

   private:
    Meeting* const meeting_;
    const int rank_;
  };

 private:
  std::barrier<> barrier_{kRanks};
  std::array<std::vector<float>, kRanks> shared_;
};

std::vector<float> RunRank(const LinearCase& linear, const BuiltLinear& built, Backend* backend,
                           int rank) {
  const int64_t cols = linear.k / kRanks;
  std::vector<float> x;
  std::vector<float> weight;
  for (int64_t r = 0; r < linear.rows; ++r) {
    const auto first = built.x.begin() + r * linear.k + rank * cols;
    x.insert(x.end(), first, first + cols);
  }
  for (int64_t n = 0; n < linear.n; ++n) {
    const auto first = built.weight.begin() + n * linear.k + rank * cols;
    weight.insert(weight.end(), first, first + cols);
  }
  const auto packed =
      backend->Pack({{weight.data(), DType::kF32, linear.n, cols}}, linear.format, false);
  std::vector<float> out = built.out;
  LinearArgs args;
  args.x = Tensor::F32(x.data(), linear.rows, cols);
  args.weight = packed.get();
  args.bias = linear.bias ? built.bias.data() : nullptr;
  args.epilogue = linear.epilogue;
  args.all_reduce = true;
  if (linear.post_norm) args.post_norm = {built.post_norm.data(), 1e-5f};
  args.out = Tensor::F32(out.data(), linear.rows, linear.n);
  backend->Linear(args);
  return out;
}

TEST(CommTest, LinearSumsOverRanks) {
  std::vector<std::string> names = CpuIsas();
  names.resize(std::min<size_t>(names.size(), 1));
  names.push_back("ref");
  for (const std::string& name : names) {
    for (const bool post_norm : {false, true}) {
      for (const Epilogue epilogue : {Epilogue::kStore, Epilogue::kResidualAdd}) {
        LinearCase linear;
        linear.rows = 5;
        linear.n = 48;
        linear.k = 64;
        linear.bias = true;
        linear.post_norm = post_norm;
        linear.epilogue = epilogue;
        const BuiltLinear built = BuildLinear(linear, 3);
        Meeting meeting;
        std::array<std::vector<float>, kRanks> outs;
        std::vector<std::thread> threads;
        for (int rank = 0; rank < kRanks; ++rank) {
          threads.emplace_back([&, rank] {
            ThreadTeam team(1);
            Meeting::Rank comm(&meeting, rank);
            std::string error;
            const auto backend = NewBackend(name, &team, &comm, &error);
            outs[rank] = RunRank(linear, built, backend.get(), rank);
          });
        }
        for (std::thread& thread : threads) thread.join();
        ThreadTeam team(1);
        std::string error;
        const auto whole = NewBackend(name, &team, nullptr, &error);
        ExpectSameBits(outs[0], outs[1], name + linear.name());
        ExpectClose(outs[0], RunLinear(whole.get(), built), 1e-5, 1e-5, name + linear.name());
      }
    }
  }
}

TEST(CommTest, OneRankIsNotSplit) {
  const auto comm = NewSingleRankComm();
  EXPECT_EQ(comm->rank(), 0);
  EXPECT_EQ(comm->size(), 1);
  float data[2] = {1.5f, -2.0f};
  comm->AllReduceSum(data, 2);
  EXPECT_EQ(data[0], 1.5f);
  EXPECT_EQ(data[1], -2.0f);
}

TEST(BackendChoiceTest, UnknownNamesAreRefusedWithWhatThereIs) {
  ThreadTeam team(1);
  std::string error;
  EXPECT_EQ(NewBackend("mmx", &team, nullptr, &error), nullptr);
  EXPECT_NE(error.find("no CPU backend \"mmx\"; it has: ref"), std::string::npos) << error;
  EXPECT_EQ(NewBackend("ref", &team, nullptr, &error)->name(), "ref");
}

}  // namespace
}  // namespace tessera::testing
