#include "scheduler/residency/adapters/adapter_loader.h"

#include <sys/resource.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

#include "kernels/base/clock.h"

namespace tessera {
namespace {

// Lowers the priority of the calling thread (Linux); does nothing if the system refuses. On busy
// cores the steps must win, because one descheduled thread of the compute team delays the whole
// team.
void GiveWay() { setpriority(PRIO_PROCESS, 0, 10); }

class ThreadedAdapterLoader final : public AdapterLoader {
 public:
  ThreadedAdapterLoader(AdapterRegistry* registry, Runner* runner, int num_threads,
                        AdapterLoaderEvents events)
      : registry_(registry), runner_(runner), events_(std::move(events)) {
    for (int i = 0; i < num_threads; ++i) threads_.emplace_back([this] { Loop(); });
  }

  ~ThreadedAdapterLoader() override {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void Read(AdapterId id) override {
    Push([this, id] {
      const int64_t begin_us = clock_.NowUs();
      absl::StatusOr<AdapterImage> image = registry_->Build(id);
      events_.on_read(id, std::move(image), clock_.NowUs() - begin_us);
    });
  }

  void Copy(AdapterId id, const AdapterImage* image, std::vector<PageId> pages) override {
    Push([this, id, image, pages = std::move(pages)] {
      runner_->transfer()->ToDevice({pages, image->layout.page_bytes}, image->pages.data(),
                                    static_cast<uint64_t>(id),
                                    [this, id](const Completion&) { events_.on_copied(id); });
    });
  }

 private:
  using Job = std::function<void()>;

  void Push(Job job) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      jobs_.push_back(std::move(job));
    }
    changed_.notify_one();
  }

  void Loop() {
    GiveWay();
    for (;;) {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
      if (stopping_) return;
      const Job job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      job();
    }
  }

  AdapterRegistry* const registry_;
  Runner* const runner_;
  const AdapterLoaderEvents events_;
  const SteadyClock clock_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> jobs_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;  // the last member, because the threads use those above
};

}  // namespace

std::unique_ptr<AdapterLoader> NewAdapterLoader(AdapterRegistry* registry, Runner* runner,
                                                int num_threads, AdapterLoaderEvents events) {
  return std::make_unique<ThreadedAdapterLoader>(registry, runner, num_threads, std::move(events));
}

}  // namespace tessera
