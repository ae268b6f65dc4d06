// A TileWorker computes the attention tasks of AttentionWork that one team member runs. It applies
// norm and rotation to a tile's queries, transposes each block of keys once, computes the partial
// softmax of all the tile's rows with the block, and merges the partials in ascending order of
// blocks. AttentionOp owns one TileWorker per team member; one thread at a time.
#pragma once

#include <atomic>
#include <vector>

#include "kernels/cpu/attention_work.h"
#include "kernels/cpu/element_of.h"
#include "kernels/cpu/isa_kernels.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/rope_table.h"
#include "kernels/device/backend.h"
#include "kernels/step/attention_plan.h"

namespace tessera::cpu {

// The data that all tasks of one Attention call share.
struct AttentionCall {
  const AttentionArgs* args = nullptr;
  const AttentionWork* work = nullptr;
  RopeTables::Table rope;
  int32_t heads_per_kv = 0;
  int32_t padded_dim = 0;    // head_dim rounded up to a multiple of 16
  int32_t key_rotation = 0;  // KeyRotation of the layout
  // The partials of cut tiles: max [cells], sum [cells], out [cells, padded_dim]. A cell is one
  // query row and one block. pieces_left is, for each cut tile, the number of unfinished pieces.
  float* partial_max = nullptr;
  float* partial_sum = nullptr;
  float* partial_out = nullptr;
  std::atomic<int32_t>* pieces_left = nullptr;
  float* lse = nullptr;  // [T, heads] log-sum-exp; null if no tap needs it
};

class TileWorker final {
 public:
  TileWorker(const IsaKernels& kernels, GrowthCount* num_grown)
      : kernels_(kernels), memory_(num_grown), stream_memory_(num_grown) {}

  // Sets memory aside for the largest call of a step. Returns false if memory is short.
  bool Reserve(const WorkPlan& plan) {
    return memory_.Reserve(plan.Bytes(WorkPart::kTiles)) &&
           stream_memory_.Reserve(plan.Bytes(WorkPart::kTapSums));
  }

  // Lays out the memory for any task of the call. The caller prepares every member's worker before
  // it starts the tasks, because the choice of the member that runs a task is not deterministic.
  void Prepare(const AttentionCall& call);

  // Computes a task. The task that completes a tile writes the tile's rows of args.out and
  // call.lse.
  void RunTask(const AttentionCall& call, const AttentionTask& task);

  // Adds the softmax mass of the tile's rows that `tap` covers to mass[key / tap.block]. Computes
  // the tile's attention again and writes no other output.
  void AddMass(const AttentionCall& call, const AttentionTile& tile, const Tap& tap, double* mass);

 private:
  // The merged partials of query rows.
  struct Rows {
    float* max = nullptr;  // [rows]
    float* sum = nullptr;  // [rows]
    float* out = nullptr;  // [rows, padded_dim]
  };

  // The cells of the call's partials to which a query row of a shared task writes.
  struct Cells {
    int64_t first = 0;   // cell of block 0
    int64_t stride = 0;  // cells from block to block
  };
  // Scales of int8 K rows that lie one after another in a page. Those of the V rows lie
  // value_offset() bytes after them.
  struct ScalePiece {
    const char* scales;
    int32_t first;  // position of the first row in the block
    int32_t count;
  };
  // The addresses of the K and V rows of a block, by position; null where the block has no key.
  struct BlockRows {
    const void* keys[kKeyBlock] = {};
    const void* values[kKeyBlock] = {};
    int32_t pack_begin = 0;  // key panels [pack_begin, pack_end) of a loaded block whose V is
    int32_t pack_end = 0;    // not packed yet
    int32_t num_scale_pieces = 0;
    ScalePiece scale_pieces[kKeyBlock];  // int8 only
  };

  void BeginTile(const AttentionCall& call, const AttentionTile& tile);
  void AttendTile(const AttentionCall& call, const AttentionTile& tile);
  // Computes the attention of the tile's rows to a stream and merges the partials into stream_.
  void AttendStream(const AttentionCall& call, const AttentionTile& tile, const KvStream& stream,
                    int32_t num_rows);
  // Writes the tile's queries, after norm and rotation, to rows first_row, first_row + 1, ... of
  // q_.
  void PrepareQueries(const AttentionCall& call, const AttentionTile& tile, int32_t pos_delta,
                      int32_t first_row);
  // Finds the addresses of the K and V rows of a block.
  void FindRows(const AttentionCall& call, const AttentionTile& tile, const KvStream& stream,
                int32_t block, BlockRows* rows) const;
  // Loads a block: finds its rows, transposes its keys and loads its scales. REQUIRES: the caller
  // loads consecutive blocks in ascending order, up to and including end - 1.
  void LoadBlock(const AttentionCall& call, const AttentionTile& tile, const KvStream& stream,
                 int32_t block, int32_t end);
  // Replaces the V rows of keys [begin, end) of the loaded block by copies padded with zeros.
  void PadValues(const AttentionCall& call, int32_t begin, int32_t end);
  // Loads the scales of keys [begin, end) of the loaded block. REQUIRES: the keys are whole panels.
  void LoadScales(const GroupLayout& layout, int32_t begin, int32_t end);
  // Computes the partials of prepared rows [row, row + count) with the loaded block. REQUIRES:
  // count <= kMaxAttendRows.
  void AttendRows(const AttentionCall& call, const KvStream& stream, int32_t block, int32_t row,
                  int32_t count, const Rows& partial);
  void RunShared(const AttentionCall& call, const AttentionTask& task);
  // Ends a piece of a cut tile. If the piece is the last one, merges the tile's partials and writes
  // its output.
  void EndPiece(const AttentionCall& call, const AttentionTile& tile);
  void MergePieces(const AttentionCall& call, const AttentionTile& tile);
  void MergeRow(const AttentionCall& call, const Rows& from, int64_t from_row, const Rows& to,
                int64_t to_row) const;
  void FinishStream(const AttentionCall& call, const KvStream& stream, int32_t num_rows);
  void FinishTile(const AttentionCall& call, const AttentionTile& tile);
  void AddBlockMass(const AttentionCall& call, const AttentionTile& tile, const KvStream& stream,
                    int32_t block, const float* stream_lse, const Tap& tap, double* mass);

  const IsaKernels& kernels_;
  Scratch memory_;
  Scratch stream_memory_;
  float* q_ = nullptr;           // [rows, padded_dim] the prepared queries, as Attend takes them
  std::vector<int32_t> tokens_;  // [rows] batch row of each prepared query
  std::vector<Cells> cells_;     // [rows] cells of each prepared query of a shared task
  float* scores_ = nullptr;      // [kMaxAttendRows, kScoreStride]
  float* weights_ = nullptr;     // [kMaxAttendRows, kScoreStride], for pages that are not fp32
  float* cos_ = nullptr;         // [rotary_dim / 2] rotation for a stream with a pos_delta
  float* sin_ = nullptr;
  char* keys_ = nullptr;           // transposed key panels of the loaded block
  char* values_ = nullptr;         // padded V rows of the loaded block, if head_dim % 16 != 0
  char* value_panels_ = nullptr;   // V of the loaded block as Attend packs it
  float* key_scales_ = nullptr;    // [kKeyBlock] scales of int8 keys
  float* value_scales_ = nullptr;  // [kKeyBlock] scales of int8 values
  Rows block_;                     // partials of up to kMaxAttendRows rows with one block
  Rows stream_;                    // partials of the current stream
  Rows total_;                     // partials of the finished streams
  BlockRows rows_[2];
  BlockRows* loaded_ = &rows_[0];
  BlockRows* next_ = &rows_[1];
  bool has_next_ = false;  // whether next_ describes the block after the loaded one
};

}  // namespace tessera::cpu
