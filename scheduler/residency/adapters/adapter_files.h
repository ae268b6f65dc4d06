// What the registry asks of the disk about an adapter's folder, and the thread that asks again and
// again. A disk may take its time: nothing here is for the threads of gRPC, responders or the
// engine.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/statusor.h"

namespace tessera {

bool IsAdapterFolder(const std::string& path);

// What stays the same as long as an adapter's files do: size, time of change, inode. NOT_FOUND
// names the file that is missing.
absl::StatusOr<std::string> IdentityOfAdapterFiles(const std::string& path);

// Calls `look` every `interval_us` on a thread of its own, which gives way to everything else.
class FileWatch final {
 public:
  FileWatch(int64_t interval_us, std::function<void()> look);
  // Waits for the look that runs.
  ~FileWatch();
  FileWatch(const FileWatch&) = delete;
  FileWatch& operator=(const FileWatch&) = delete;

 private:
  void Loop();

  const int64_t interval_us_;
  const std::function<void()> look_;
  std::mutex mutex_;
  std::condition_variable stop_;
  bool stopping_ = false;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace tessera
