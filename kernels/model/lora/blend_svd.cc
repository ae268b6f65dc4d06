#include "kernels/model/lora/blend_svd.h"

// It comes before Eigen's other headers.
#include "kernels/model/deterministic_eigen.h"

#include <Eigen/QR>
#include <Eigen/SVD>
#include <algorithm>

#include "kernels/base/log.h"

namespace tessera {
namespace {

using Eigen::Index;
using Eigen::MatrixXd;

// The factor R of the matrix that `qr` decomposes, without R's rows of zeros: [min(rows, cols),
// cols].
MatrixXd UpperFactor(const Eigen::HouseholderQR<MatrixXd>& qr) {
  const Index num_rows = std::min(qr.rows(), qr.cols());
  return qr.matrixQR().topRows(num_rows).triangularView<Eigen::Upper>();
}

// Q times `left`, which is first padded with zeros to [qr.rows(), rank]; Q is the orthogonal factor
// of `qr`. The result is [qr.rows(), rank].
MatrixXd Spread(const Eigen::HouseholderQR<MatrixXd>& qr, const MatrixXd& left, Index rank) {
  MatrixXd spread = MatrixXd::Zero(qr.rows(), rank);
  spread.topLeftCorner(left.rows(), left.cols()) = left;
  spread.applyOnTheLeft(qr.householderQ());
  return spread;
}

absl::Status NotFinite() {
  return absl::InvalidArgumentError(
      "the blend has infinite weights or ones that are no numbers; check the adapters' files and "
      "their weights");
}

}  // namespace

// With b diag(scales) = Q_b R_b and a^T = Q_a R_a, the product is Q_b (R_b R_a^T) Q_a^T. The small
// matrix R_b R_a^T has the singular values of the product; Q_b and Q_a map its singular vectors to
// those of the product.
absl::StatusOr<LoraTensors> TruncateRank(const LoraTensors& tensors, int64_t rows, int64_t cols,
                                         int32_t rank) {
  CHECK(rank >= 1 && rank <= tensors.rank) << rank << " of " << tensors.rank;
  const Eigen::Map<const RowMajorFloats> a(tensors.a.data(), tensors.rank, cols);
  const Eigen::Map<const RowMajorFloats> b(tensors.b.data(), rows, tensors.rank);
  const Eigen::Map<const Eigen::VectorXf> scales(tensors.scales.data(), tensors.rank);
  const Eigen::HouseholderQR<MatrixXd> qr_a(a.transpose().cast<double>());
  const Eigen::HouseholderQR<MatrixXd> qr_b(b.cast<double>() * scales.cast<double>().asDiagonal());
  const MatrixXd middle = UpperFactor(qr_b) * UpperFactor(qr_a).transpose();
  if (!middle.allFinite()) return NotFinite();
  const Eigen::BDCSVD<MatrixXd> svd(middle, Eigen::ComputeThinU | Eigen::ComputeThinV);
  if (svd.info() != Eigen::Success) return NotFinite();

  const Index kept = std::min<Index>(rank, svd.singularValues().size());
  const Eigen::VectorXd roots = svd.singularValues().head(kept).cwiseSqrt();
  LoraTensors nearest;
  nearest.rank = rank;
  nearest.a.resize(static_cast<size_t>(rank * cols));
  nearest.b.resize(static_cast<size_t>(rows * rank));
  nearest.scales.assign(static_cast<size_t>(rank), 1.0f);
  Eigen::Map<RowMajorFloats> to_a(nearest.a.data(), rank, cols);
  Eigen::Map<RowMajorFloats> to_b(nearest.b.data(), rows, rank);
  to_a = Spread(qr_a, svd.matrixV().leftCols(kept) * roots.asDiagonal(), rank)
             .transpose()
             .cast<float>();
  to_b = Spread(qr_b, svd.matrixU().leftCols(kept) * roots.asDiagonal(), rank).cast<float>();
  if (!to_a.allFinite() || !to_b.allFinite()) return NotFinite();
  return nearest;
}

}  // namespace tessera
