#include "kernels/device/comm.h"

namespace tessera {
namespace {

class SingleRankComm final : public Comm {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void AllReduceSum(float* /*data*/, int64_t /*count*/) override {}
};

}  // namespace

std::unique_ptr<Comm> NewSingleRankComm() { return std::make_unique<SingleRankComm>(); }

}  // namespace tessera
