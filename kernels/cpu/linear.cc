#include "kernels/cpu/linear.h"

#include <algorithm>

#include "kernels/base/log.h"

namespace tessera::cpu {
namespace {

// The largest size of a block of prepared rows. The block fills at most half of a core's L2 cache
// and stays there while the panels are read from memory.
constexpr int64_t kRowBlockBytes = int64_t{512} << 10;
// With fewer elements, a separate fork-join takes longer than preparing the rows on one thread.
constexpr int64_t kPrepareAloneElements = 8192;
// A task has a multiple of kPanelGranule panels, the most panels of one register tile. It is small
// enough to balance the load and large enough for sequential reads.
constexpr int64_t kPanelGranule = 4;
constexpr int64_t kMaxTaskPanels = 32;
constexpr int64_t kTasksPerMember = 8;

GemmProblem NewProblem(const CpuWeight& weight) {
  GemmProblem problem;
  problem.b = weight.panels();
  problem.panel_bytes = weight.panel_bytes();
  problem.steps = weight.steps();
  problem.quant = weight.format().quantized() ? &weight.quant() : nullptr;
  problem.columns = weight.gated() ? weight.rows() / 2 : weight.rows();
  return problem;
}

decltype(IsaKernels::gemm_f32) GemmOf(const IsaKernels& kernels, const WeightFormat& format) {
  const bool rounded = format.activations == DType::kBF16;
  switch (format.dtype) {
    case DType::kBF16:
      return kernels.gemm_bf16;
    case DType::kI8:
      return rounded ? kernels.gemm_i8_rounded : kernels.gemm_i8;
    case DType::kI5:
      return rounded ? kernels.gemm_i5_rounded : kernels.gemm_i5;
    case DType::kI4:
      return rounded ? kernels.gemm_i4_rounded : kernels.gemm_i4;
    default:
      return kernels.gemm_f32;
  }
}

OutputOp OutputOpOf(const LinearArgs& args) {
  if (args.epilogue == Epilogue::kGatedAct) {
    return args.activation == Activation::kSilu ? OutputOp::kGatedSilu : OutputOp::kGatedGelu;
  }
  return args.epilogue == Epilogue::kResidualAdd ? OutputOp::kAdd : OutputOp::kStore;
}

}  // namespace

void LinearOp::PrepareRows(const Rows& rows, const NormArgs& norm, const CpuWeight& weight,
                           const LinearArgs* adapted, GemmProblem* problem) {
  const bool round = weight.dtype() == DType::kBF16;
  const bool as_it_is = weight.dtype() == DType::kF32 && norm.weight == nullptr;
  if (as_it_is && rows.rows == nullptr) {
    problem->a = rows.x.data;
    problem->a_stride = rows.x.row_stride * DTypeBytes(DType::kF32);
    return;
  }
  const QuantShape* const quant = problem->quant;
  const int64_t element_bytes = round && kernels_.dot_bf16 ? 2 : 4;
  const int64_t padded_cols = round ? RoundUp<int64_t>(weight.cols(), 2) : weight.cols();
  const int64_t row_bytes =
      quant != nullptr ? quant->row_scale + int64_t{sizeof(float)} : padded_cols * element_bytes;
  // The stride is an odd number of cache lines, so that rows do not compete for the same cache
  // sets.
  const int64_t stride = (CeilDiv(row_bytes, kCacheLine) | 1) * kCacheLine;
  char* const out = prepared_.Bytes(static_cast<size_t>(stride * rows.count));
  const int64_t value_stride = RoundUp<int64_t>(weight.cols(), kPanel);
  float* const values =
      quant == nullptr ? nullptr : row_values_.Floats(team_->num_threads() * value_stride);
  const auto prepare_quant =
      weight.format().activations == DType::kBF16 ? kernels_.round_row : kernels_.quantize_row;
  const auto prepare = [&](int64_t begin, int64_t end, int member) {
    for (int64_t i = begin; i < end; ++i) {
      if (adapted != nullptr) lora_.PrepareRow(*adapted, i);
      if (quant != nullptr) {
        prepare_quant(rows.row(i), norm.weight, norm.eps, *quant, values + member * value_stride,
                      out + i * stride);
        continue;
      }
      kernels_.prepare_row(rows.row(i), norm.weight, norm.eps, weight.cols(), padded_cols, round,
                           out + i * stride);
    }
  };
  if (rows.count * weight.cols() <= kPrepareAloneElements) {
    prepare(0, rows.count, 0);
  } else {
    team_->ParallelFor(rows.count, std::max<int64_t>(1, kPrepareAloneElements / weight.cols()),
                       prepare);
  }
  problem->a = out;
  problem->a_stride = stride;
}

void LinearOp::RunGemm(const CpuWeight& weight, int64_t num_rows, const GemmProblem& problem) {
  const int64_t num_panels = weight.num_panels();
  const int64_t members = team_->num_threads();
  const int64_t task_panels =
      std::clamp(RoundUp(num_panels / (members * kTasksPerMember), kPanelGranule), kPanelGranule,
                 kMaxTaskPanels);
  const int64_t panel_tasks = CeilDiv(num_panels, task_panels);
  const int64_t most_rows = std::max<int64_t>(48, kRowBlockBytes / problem.a_stride);
  const int64_t row_tasks = CeilDiv(num_rows, most_rows);
  const auto gemm = GemmOf(kernels_, weight.format());
  work_.For(panel_tasks * row_tasks, [&](int64_t task, int member) {
    const int64_t row_task = task / panel_tasks;
    const int64_t panel = task % panel_tasks * task_panels;
    gemm(problem, panel, std::min(panel + task_panels, num_panels), num_rows * row_task / row_tasks,
         num_rows * (row_task + 1) / row_tasks);
  });
}

void LinearOp::PostNorm(const LinearArgs& args, const float* y) {
  const bool add = args.epilogue == Epilogue::kResidualAdd;
  const int64_t cols = args.out.cols;
  team_->ParallelFor(args.out.rows, std::max<int64_t>(1, kPrepareAloneElements / cols),
                     [&](int64_t begin, int64_t end, int member) {
                       for (int64_t row = begin; row < end; ++row) {
                         kernels_.norm_row(y + row * cols, args.post_norm.weight,
                                           args.post_norm.eps, cols, add, args.out.f32(row));
                       }
                     });
}

void LinearOp::FinishReduced(const LinearArgs& args, float* y) {
  const int64_t cols = args.out.cols;
  comm_->AllReduceSum(y, args.out.rows * cols);
  const bool add = args.epilogue == Epilogue::kResidualAdd;
  const bool norm = args.post_norm.weight != nullptr;
  for (int64_t row = 0; row < args.out.rows; ++row, y += cols) {
    float* const out = args.out.f32(row);
    for (int64_t i = 0; i < cols; ++i) {
      if (args.bias != nullptr) y[i] += args.bias[i];
      if (!norm) out[i] = add ? out[i] + y[i] : y[i];
    }
  }
}

void LinearOp::Linear(const LinearArgs& args) {
  const CpuWeight& weight = *static_cast<const CpuWeight*>(args.weight);
  const bool gated = args.epilogue == Epilogue::kGatedAct;
  const bool post_norm = args.post_norm.weight != nullptr;
  GemmProblem problem = NewProblem(weight);
  CHECK_EQ(args.x.cols, weight.cols());
  CHECK_EQ(args.out.rows, args.x.rows);
  CHECK_EQ(args.out.cols, problem.columns);
  CHECK_EQ(gated, weight.gated());
  const bool reduce = args.all_reduce && comm_ != nullptr && comm_->size() > 1;
  const bool in_two = post_norm || reduce;  // y is complete before the epilogue
  CHECK(!gated || !in_two);
  if (args.x.rows == 0) return;

  lora_.Begin(args);
  PrepareRows({args.x, nullptr, args.x.rows}, args.pre_norm, weight, &args, &problem);
  problem.lora = lora_.Shrink();
  problem.bias = reduce ? nullptr : args.bias;
  problem.up_bias = problem.bias == nullptr ? nullptr : args.bias + problem.columns;
  problem.op = in_two ? OutputOp::kStore : OutputOpOf(args);
  problem.out = in_two ? before_norm_.Floats(args.x.rows * problem.columns) : args.out.f32();
  problem.out_stride = in_two ? problem.columns : args.out.row_stride;
  RunGemm(weight, args.x.rows, problem);
  if (reduce) FinishReduced(args, problem.out);
  if (post_norm) PostNorm(args, problem.out);
}

void LinearOp::Logits(const LogitsArgs& args) {
  const CpuWeight& weight = *static_cast<const CpuWeight*>(args.weight);
  CHECK_LE(args.num_rows, kLogitBlock);
  CHECK(!weight.gated());
  if (args.num_rows == 0) return;
  GemmProblem problem = NewProblem(weight);
  PrepareRows({args.hidden, args.token_rows, args.num_rows}, args.final_norm, weight, nullptr,
              &problem);
  problem.softcap = args.softcap;
  problem.out = args.out.f32();
  problem.out_stride = args.out.row_stride;
  RunGemm(weight, args.num_rows, problem);
}

}  // namespace tessera::cpu
