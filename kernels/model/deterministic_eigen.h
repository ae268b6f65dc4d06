// Eigen with an order of summation that does not depend on the machine: without EIGEN_NO_CPUID, it
// would choose its block sizes by the machine's cache sizes. Include this header, and nothing of
// Eigen, before Eigen's other headers. Only libraries that link Eigen include it (CMakeLists.txt).
#pragma once

#define EIGEN_NO_CPUID
#define EIGEN_DONT_PARALLELIZE
#include <Eigen/Core>

namespace tessera {

using RowMajorFloats = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

}  // namespace tessera
