// One member's attention to the tiles of AttentionWork: queries are normed and rotated, each block
// of keys is transposed once and attended to by all of the tile's rows, partials are merged in
// ascending order. Owned by AttentionOp; one thread at a time.
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

// What the tasks of one Attention call share.
struct AttentionCall {
  const AttentionArgs* args = nullptr;
  const AttentionWork* work = nullptr;
  RopeTables::Table rope;
  int32_t heads_per_kv = 0;
  int32_t padded_dim = 0;  // head_dim, a multiple of 16
  // Of cut tiles: max [cells], sum [cells], out [cells, padded_dim]; and per cut tile the pieces
  // that are not done.
  float* partial_max = nullptr;
  float* partial_sum = nullptr;
  float* partial_out = nullptr;
  std::atomic<int32_t>* pieces_left = nullptr;
  float* lse = nullptr;  // [T, heads], or null when nobody taps it
};

class TileWorker final {
 public:
  TileWorker(const IsaKernels& kernels, GrowthCount* num_grown)
      : kernels_(kernels), memory_(num_grown), stream_memory_(num_grown) {}

  bool Reserve(const WorkPlan& plan) {
    return memory_.Reserve(plan.Bytes(WorkPart::kTiles)) &&
           stream_memory_.Reserve(plan.Bytes(WorkPart::kTapSums));
  }

  // Lays out the memory for any task of the call. Before the tasks, for every member: which one
  // takes a task is chance, and a step must not allocate by chance.
  void Prepare(const AttentionCall& call);

  // Attends; the last task of a tile writes its rows of args.out (and call.lse).
  void RunTask(const AttentionCall& call, const AttentionTask& task);

  // Adds the softmax mass of the tile's rows of `tap` to mass[key / tap.block]. Computes everything
  // anew; writes nothing else.
  void AddMass(const AttentionCall& call, const AttentionTile& tile, const Tap& tap, double* mass);

 private:
  // Query rows and their merged partials.
  struct Rows {
    float* max = nullptr;  // [rows]
    float* sum = nullptr;  // [rows]
    float* out = nullptr;  // [rows, padded_dim]
  };

  // Where the partials of a query row of a shared task go: (block, row) cells.
  struct Cells {
    int64_t first = 0;   // of block 0
    int64_t stride = 0;  // from block to block
  };
  // Rows of a block's keys by position; null where it has none.
  struct BlockRows {
    const void* keys[kKeyBlock] = {};
    const void* values[kKeyBlock] = {};
    int32_t pack_begin = 0;  // once loaded: panels of keys whose V is not packed yet
    int32_t pack_end = 0;
  };

  void BeginTile(const AttentionCall& call, const AttentionTile& tile);
  void AttendTile(const AttentionCall& call, const AttentionTile& tile);
  // All that the tile's rows see of a stream, merged into stream_.
  void AttendStream(const AttentionCall& call, const AttentionTile& tile, const KvStream& stream,
                    int32_t num_rows);
  // Makes the tile's queries the rows from first_row on.
  void PrepareQueries(const AttentionCall& call, const AttentionTile& tile, int32_t pos_delta,
                      int32_t first_row);
  // Finds where the keys of a block lie.
  void FindRows(const AttentionCall& call, const AttentionTile& tile, const KvStream& stream,
                int32_t block, BlockRows* rows) const;
  // Makes `block` the loaded one. A caller loads blocks in ascending order and ends with end - 1.
  void LoadBlock(const AttentionCall& call, const AttentionTile& tile, const KvStream& stream,
                 int32_t block, int32_t end);
  // Of the loaded block's keys [begin, end).
  void PadValues(const AttentionCall& call, int32_t begin, int32_t end);
  // The scales of the loaded block's keys [begin, end), whole panels.
  void LoadScales(const GroupLayout& layout, int32_t begin, int32_t end);
  // Prepared rows [row, row + count) against the loaded block, count <= kMaxAttendRows.
  void AttendRows(const AttentionCall& call, const KvStream& stream, int32_t block, int32_t row,
                  int32_t count, const Rows& partial);
  void RunShared(const AttentionCall& call, const AttentionTask& task);
  // After a piece of a cut tile: the last one merges.
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
  float* q_ = nullptr;           // [rows, padded_dim]: the prepared queries, as Attend takes them
  std::vector<int32_t> tokens_;  // [rows] of the prepared queries
  std::vector<Cells> cells_;     // [rows] of the prepared queries of a shared task
  float* scores_ = nullptr;      // [kMaxAttendRows, kScoreStride]
  float* weights_ = nullptr;     // of pages that are not fp32, likewise
  float* cos_ = nullptr;         // [rotary_dim / 2], of a stream with a pos_delta
  float* sin_ = nullptr;
  char* keys_ = nullptr;           // transposed panels of the loaded block
  char* values_ = nullptr;         // its V rows, padded, where head_dim is no multiple of 16
  char* value_panels_ = nullptr;   // its V as Attend packs it
  float* key_scales_ = nullptr;    // [kKeyBlock] of int8 pages
  float* value_scales_ = nullptr;  // likewise
  Rows block_;                     // of kMaxAttendRows rows
  Rows stream_;                    // of the running stream
  Rows total_;                     // of the finished streams
  BlockRows rows_[2];
  BlockRows* loaded_ = &rows_[0];
  BlockRows* next_ = &rows_[1];
  bool has_next_ = false;  // next_ is of the block behind the loaded one
};

}  // namespace tessera::cpu
