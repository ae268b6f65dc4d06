// One member's attention to the tiles of AttentionWork: queries are normed and rotated, each block
// of keys is transposed once and attended to by all of the tile's rows, partials are merged in
// ascending order. Owned by AttentionOp; one thread at a time.
#pragma once

#include <atomic>

#include "kernels/attention_plan.h"
#include "kernels/backend.h"
#include "kernels/cpu/attention_work.h"
#include "kernels/cpu/isa_kernels.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/rope_table.h"

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
  explicit TileWorker(const IsaKernels& kernels) : kernels_(kernels) {}

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

  void Reserve(const AttentionCall& call);
  void BeginTile(const AttentionCall& call, const AttentionTile& tile);
  void AttendTile(const AttentionCall& call, const AttentionTile& tile);
  // All that the tile's rows see of a stream, merged into stream_.
  void AttendStream(const AttentionCall& call, const AttentionTile& tile, const KvStream& stream,
                    int32_t num_rows);
  void PrepareQueries(const AttentionCall& call, const AttentionTile& tile, int32_t pos_delta);
  void LoadBlock(const AttentionCall& call, const AttentionTile& tile, const KvStream& stream,
                 int32_t block);
  // Rows [row, row + count) of the tile against the loaded block, count <= kMaxAttendRows.
  void AttendRows(const AttentionCall& call, const AttentionTile& tile, const KvStream& stream,
                  int32_t block, int32_t row, int32_t count, const Rows& partial);
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
  float* q_ = nullptr;       // [rows, padded_dim]
  float* scores_ = nullptr;  // [kMaxAttendRows, kScoreStride]
  float* cos_ = nullptr;     // [rotary_dim / 2], of a stream with a pos_delta
  float* sin_ = nullptr;
  char* keys_ = nullptr;    // transposed panels of the loaded block
  char* values_ = nullptr;  // its V rows, padded, where head_dim is no multiple of 16
  Rows block_;              // of kMaxAttendRows rows
  Rows stream_;             // of the running stream
  Rows total_;              // of the finished streams
  const void* key_rows_[kKeyBlock] = {};
  const void* value_rows_[kKeyBlock] = {};
};

}  // namespace tessera::cpu
