// WorkRanges runs tasks whose data is contiguous in memory on all members of a thread team
// (fork-join). Every member first runs its own contiguous range of tasks in order, so that the
// hardware prefetcher can follow. Then it runs remaining tasks of the other members, so that a
// member that has lost its core for a moment does not delay the step. One caller at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "kernels/base/thread_team.h"

namespace tessera::cpu {

class WorkRanges {
 public:
  explicit WorkRanges(ThreadTeam* team)
      : team_(team), cursors_(new Cursor[static_cast<size_t>(team->num_threads())]) {}

  // Runs body(task, member) for every task in [0, count). REQUIRES: the result of a task does not
  // depend on the member that runs it.
  template <class Body>
  void For(int64_t count, const Body& body) {
    const int members = team_->num_threads();
    if (members == 1 || count <= 1) {
      for (int64_t task = 0; task < count; ++task) body(task, 0);
      return;
    }
    for (int m = 0; m < members; ++m) {
      cursors_[m].next.store(count * m / members, std::memory_order_relaxed);
      cursors_[m].end = count * (m + 1) / members;
    }
    team_->Run([&](int member) {
      for (int i = 0; i < members; ++i) {
        Cursor& cursor = cursors_[(member + i) % members];
        for (;;) {
          const int64_t task = cursor.next.fetch_add(1, std::memory_order_relaxed);
          if (task >= cursor.end) break;
          body(task, member);
        }
      }
    });
  }

 private:
  struct alignas(64) Cursor {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  ThreadTeam* const team_;
  std::unique_ptr<Cursor[]> cursors_;
};

}  // namespace tessera::cpu
