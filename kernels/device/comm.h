// A Comm sums data over the ranks of one model (tensor parallelism). A backend calls it in Linear,
// so the code of models does not deal with ranks. Each rank thread uses a Comm of its own. This
// header includes neither absl nor spdlog, because CUDA sources include it.
#pragma once

#include <cstdint>
#include <memory>

namespace tessera {

class Comm {
 public:
  virtual ~Comm() = default;
  virtual int rank() const = 0;  // rank of the caller, in [0, size())
  virtual int size() const = 0;  // number of ranks
  // data[i] := the sum of data[i] over all ranks, added in ascending order of ranks. All ranks get
  // the same bits. `data` is device memory. REQUIRES: every rank makes the call, with the same
  // count.
  virtual void AllReduceSum(float* data, int64_t count) = 0;
};

// Creates the Comm of a model that is not split. It has one rank, so AllReduceSum changes nothing.
std::unique_ptr<Comm> NewSingleRankComm();

}  // namespace tessera
