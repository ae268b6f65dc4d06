// The backend seam: five fused semantic ops per layer, plus what surrounds a step. Three backends
// implement it: `ref` (scalar fp32, obviously right, the judge), `cpu` (AVX2 / AVX-512 / AMX) and,
// later, `cuda`. Everything above is shared.
//
// Memory. What Allocate, Pack and Restore give is the device's: only the backend reads or writes
// it. Upload, Download and Transfer (transfer.h) move bytes between it and the host.
//
// Numbers. Activations between ops are fp32 rows. A Linear rounds its input rows (after the norm)
// to bf16 when its weight is bf16 and accumulates in fp32 over k in ascending order, in an order
// that does not depend on the number of rows; with fp32 weights nothing is rounded; with int8 and
// int4 weights rows are quantised as kernels/device/weight_format.h says. K and V are rounded to
// the pages' dtype, or quantised by row (kernels/step/page_layout.h), when appended. Attention
// computes in fp32 over fixed absolute blocks of kAttentionBlock key positions per stream (see
// KvRun); each block gives (output, log-sum-exp), merged in position order. `ref` rounds at the
// same points, so it judges bf16 tightly too.
//
// Batch invariance: on ref and cpu a row has the same bits alone, in any batch, on any threads.
//
// Threads: all calls but Upload and Download come from one rank thread. This header is free of absl
// and spdlog (CUDA sources see it).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/device/device_memory.h"
#include "kernels/device/graph_key.h"
#include "kernels/device/ops.h"
#include "kernels/device/weight_format.h"
#include "kernels/device/work_plan.h"
#include "kernels/step/batch.h"

namespace tessera {

class Comm;
class ThreadTeam;

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string name() const = 0;  // "ref", "cpu/avx2", ...

  // Zeroed memory of the device. Null when there is not enough.
  virtual std::unique_ptr<DeviceBuffer> Allocate(size_t bytes) = 0;
  // Copy between host memory and memory of Allocate; they return when the copy is done. Nobody else
  // may read or write the device's memory. Any thread.
  virtual void Upload(const void* from, void* to_device, size_t bytes) = 0;
  virtual void Download(const void* from_device, void* to, size_t bytes) = 0;

  // Packs the rows of `parts` (equal cols), one below the other, into one weight of `format`: parts
  // of floats are rounded or quantised, parts that are quantised already keep their codes, scales
  // and zeros. REQUIRES: format.valid(); quantised parts have the format's dtype, its groups, and
  // zeros only if it is asymmetric. With interleave_gate REQUIRES two parts of equal rows, gate and
  // up, for Epilogue::kGatedAct. The parts may be unmapped afterwards. The same weight may serve
  // both Logits and Embed (tied embeddings). Null when memory is short.
  virtual std::unique_ptr<PackedWeight> Pack(const std::vector<WeightView>& parts,
                                             const WeightFormat& format, bool interleave_gate) = 0;

  // Pack of parts without data: `fill` brings what ReadPacked gave in this build and backend. Null
  // when it cannot, or when the backend takes none.
  virtual std::unique_ptr<PackedWeight> Restore(const std::vector<WeightView>& parts,
                                                const WeightFormat& format, bool interleave_gate,
                                                const FillPacked& fill) {
    return nullptr;
  }

  // The size-only pass: what a step of this batch takes. Changes nothing.
  virtual WorkPlan Plan(const BatchView& batch, const StepShape& shape) const = 0;
  // Sets working memory aside, so that steps within the plan take none. False: memory is short.
  virtual bool Reserve(const WorkPlan& plan) = 0;
  // Once per step, before its ops: sets aside what `plan` says, uploads the batch, splits the work.
  // `batch` must outlive the step. REQUIRES: `plan` is Plan's of this batch and shape.
  virtual void BeginStep(const BatchView& batch, const StepShape& shape, const WorkPlan& plan) = 0;
  // How often an op found less working memory set aside than it needed, and took more.
  virtual int64_t num_grown() const { return 0; }

  virtual void Apply(const ApplyArgs& args) = 0;
  virtual void Embed(const EmbedArgs& args) = 0;
  virtual void Linear(const LinearArgs& args) = 0;
  virtual void Attention(const AttentionArgs& args) = 0;
  virtual void TapHidden(const HiddenTapArgs& args) = 0;
  virtual void Logits(const LogitsArgs& args) = 0;
  virtual void Sample(const SampleArgs& args) = 0;
  // Runs `body`, which issues the ops of the key's layers. CUDA captures and replays it as a graph.
  virtual void RunLayers(const GraphKey& key, const std::function<void()>& body) { body(); }
};

// `comm` null: the model is not split. It must outlive the backend.
std::unique_ptr<Backend> NewRefBackend(Comm* comm = nullptr);

// The CPU backend for the best instruction set this machine has, or the one `isa` names ("avx2",
// "avxvnni", "avx512", "avx512vnni", "avx512bf16", "amx"; "" = best). Null when the machine lacks
// it. "amxtwin" is amx with its tile registers in plain code, slow and for tests only. `team` and
// `comm` (null: the model is not split) must outlive the backend.
std::unique_ptr<Backend> NewCpuBackend(const std::string& isa, ThreadTeam* team,
                                       Comm* comm = nullptr);

// Instruction sets of NewCpuBackend that this machine can run, best first.
std::vector<std::string> CpuIsas();

// The backend that `name` means: "ref", or an instruction set of CpuIsas(), "" for the best one.
// Null when this machine has no such backend; *error then says which ones it has.
std::unique_ptr<Backend> NewBackend(const std::string& name, ThreadTeam* team, Comm* comm,
                                    std::string* error);

// What steps within `bounds` take on the backend that `name` means, with that many threads.
WorkPlan PlanWork(const std::string& name, const StepShape& shape, const StepBounds& bounds,
                  int num_threads);

}  // namespace tessera
