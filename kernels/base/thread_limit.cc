#include "kernels/base/thread_limit.h"

#include <pthread.h>

#include <cstring>
#include <mutex>
#include <vector>

#include "absl/strings/str_cat.h"

namespace tessera {
namespace {

// Waits until CheckThreads unlocks the mutex, so that all threads exist at the same time.
void* AwaitUnlock(void* mutex) {
  std::lock_guard<std::mutex> lock(*static_cast<std::mutex*>(mutex));
  return nullptr;
}

}  // namespace

absl::Status CheckThreads(int num_threads) {
  std::mutex gate;
  std::vector<pthread_t> threads;
  int error = 0;
  gate.lock();
  while (error == 0 && threads.size() < static_cast<size_t>(num_threads)) {
    pthread_t thread = {};
    error = pthread_create(&thread, nullptr, &AwaitUnlock, &gate);
    if (error == 0) threads.push_back(thread);
  }
  gate.unlock();
  for (const pthread_t thread : threads) pthread_join(thread, nullptr);
  if (error == 0) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "this process may create ", threads.size(), " more threads, but needs ", num_threads, " (",
      std::strerror(error),
      "): raise the limit of threads (ulimit -u, pids.max of the cgroup, TasksMax of the systemd "
      "unit) and of address space (ulimit -v), or lower --threads"));
}

}  // namespace tessera
