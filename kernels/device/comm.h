// How the ranks of one model exchange data (tensor parallelism). A backend owns the collective in
// its Linear, so the model never mentions ranks. Free of absl and spdlog (CUDA sources see it).
#pragma once

#include <cstdint>
#include <memory>

namespace tessera {

class Comm {
 public:
  virtual ~Comm() = default;
  virtual int rank() const = 0;  // of this process or thread, in [0, size())
  virtual int size() const = 0;
  // data[i] := the sum of data[i] over all ranks, added in ascending order of ranks. Every rank
  // calls it with the same count and gets the same bits. `data` is device memory.
  virtual void AllReduceSum(float* data, int64_t count) = 0;
};

// The one rank of a model that is not split: AllReduceSum leaves the data as it is.
std::unique_ptr<Comm> NewSingleRankComm();

}  // namespace tessera
