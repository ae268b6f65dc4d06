// The interface of a backend: five fused ops for each layer of a step, and the calls that begin and
// end a step. The backends are `ref` (scalar fp32 code, simple enough to be the reference of all
// tests), `cpu` (AVX2, AVX-512, AMX) and, later, `cuda`. All code above the backend is common to
// them.
//
// Memory. Allocate, Pack and Restore return device memory, which only the backend reads and writes.
// Upload, Download and Transfer (transfer.h) copy bytes between device memory and host memory.
//
// Numbers. Activations between ops are fp32 rows. A Linear with a bf16 weight rounds its input rows
// (after the norm) to bf16; with an fp32 weight nothing is rounded; with a quantised weight rows
// are quantised or rounded as kernels/device/weight_format.h defines. A Linear with a bf16 or fp32
// weight accumulates in fp32 over k in ascending order, whatever the number of rows. With an fp32
// weight, ref accumulates in fp64, and cpu adds the sums of runs of 128 products: in one long fp32
// sum, the rounding errors of a channel that is thousands of times larger than the others would
// drown them. K and V are rounded to the pages' dtype, or quantised by row
// (kernels/step/page_layout.h), when they are appended. Attention computes in fp32 over fixed
// blocks of kAttentionBlock key positions of each stream (kernels/step/attention_plan.h). Each
// block gives a partial result, and partial results are merged in the order of positions. All
// backends round at the same points, so tests compare them with `ref` under tight bounds for bf16,
// too.
//
// Batch invariance: on ref and cpu a row's results have the same bits in any batch and with any
// number of threads.
//
// Threads: one thread, the rank thread, makes all calls except Upload and Download. This header
// includes neither absl nor spdlog, because CUDA sources include it.
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

  // Returns zeroed device memory, or null if there is not enough.
  virtual std::unique_ptr<DeviceBuffer> Allocate(size_t bytes) = 0;
  // Upload and Download copy between host memory and memory of Allocate, and return when the copy
  // is done. Host code must access device memory only by these two calls and by Transfer. Any
  // thread.
  virtual void Upload(const void* from, void* to_device, size_t bytes) = 0;
  virtual void Download(const void* from_device, void* to, size_t bytes) = 0;

  // Packs the rows of `parts` (which have equal cols), concatenated in order, into one weight of
  // `format`. Parts of floats are rounded or quantised; quantised parts keep their codes, scales
  // and zeros. The parts may be unmapped afterwards. Both Logits and Embed may use the same weight
  // (tied embeddings). Returns null if there is not enough memory. REQUIRES: format.valid();
  // quantised parts have the format's dtype and groups, and have zeros only if the format is
  // asymmetric; with interleave_gate there are two parts of equal rows, gate and up, for
  // Epilogue::kGatedAct.
  virtual std::unique_ptr<PackedWeight> Pack(const std::vector<WeightView>& parts,
                                             const WeightFormat& format, bool interleave_gate) = 0;

  // Creates the weight that Pack would create, from `parts` without data: `fill` writes the bytes
  // that ReadPacked returned for that weight in the same build and backend. Returns null if `fill`
  // returns false or if the backend cannot restore weights.
  virtual std::unique_ptr<PackedWeight> Restore(const std::vector<WeightView>& parts,
                                                const WeightFormat& format, bool interleave_gate,
                                                const FillPacked& fill) {
    return nullptr;
  }

  // Returns the sizes of the working memory that a step of this batch takes. Changes nothing.
  virtual WorkPlan Plan(const BatchView& batch, const StepShape& shape) const = 0;
  // Allocates working memory, so that steps within the plan allocate none. Returns false if there
  // is not enough memory.
  virtual bool Reserve(const WorkPlan& plan) = 0;
  // Begins a step, before its ops: reserves the working memory of `plan`, uploads the batch and
  // divides the work. `batch` must outlive the step. REQUIRES: Plan returned `plan` for this batch
  // and shape.
  virtual void BeginStep(const BatchView& batch, const StepShape& shape, const WorkPlan& plan) = 0;
  // The number of times that an op had to allocate because too little working memory was reserved.
  virtual int64_t num_grown() const { return 0; }

  virtual void Apply(const ApplyArgs& args) = 0;
  virtual void Embed(const EmbedArgs& args) = 0;
  virtual void Linear(const LinearArgs& args) = 0;
  virtual void Attention(const AttentionArgs& args) = 0;
  virtual void TapHidden(const HiddenTapArgs& args) = 0;
  virtual void Logits(const LogitsArgs& args) = 0;
  virtual void Sample(const SampleArgs& args) = 0;
  // Runs `body`, which issues the ops of the key's layers. CUDA captures these ops as a graph and
  // replays the graph for equal keys.
  virtual void RunLayers(const GraphKey& key, const std::function<void()>& body) { body(); }
};

// Creates the reference backend. `comm` must outlive the backend; null: the model is not split over
// ranks.
std::unique_ptr<Backend> NewRefBackend(Comm* comm = nullptr);

// Creates the CPU backend for the instruction set `isa` ("avx2", "avxvnni", "avx512", "avx512vnni",
// "avx512bf16", "amx"; "": the best of this machine). Returns null if the machine lacks the
// instruction set. "amxtwin" is "amx" with the tile registers emulated in plain code, which is slow
// and for tests only. `team` and `comm` must outlive the backend; a null `comm`: the model is not
// split over ranks.
std::unique_ptr<Backend> NewCpuBackend(const std::string& isa, ThreadTeam* team,
                                       Comm* comm = nullptr);

// The instruction sets of NewCpuBackend that this machine can run, best first.
std::vector<std::string> CpuIsas();

// Creates the backend `name`: "ref", an instruction set of CpuIsas(), or "" for the best
// instruction set. If this machine has no such backend, returns null and sets *error to a list of
// the backends that it has.
std::unique_ptr<Backend> NewBackend(const std::string& name, ThreadTeam* team, Comm* comm,
                                    std::string* error);

// Returns the sizes of the working memory that steps within `bounds` take on the backend `name` (as
// in NewBackend) with `num_threads` threads.
WorkPlan PlanWork(const std::string& name, const StepShape& shape, const StepBounds& bounds,
                  int num_threads);

}  // namespace tessera
