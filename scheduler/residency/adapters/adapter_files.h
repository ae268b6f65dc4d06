// Functions by which the adapter registry examines an adapter's folder on disk, and the thread that
// examines the folders regularly. The disk may be slow, so the threads of gRPC, responders and the
// engine must not call these functions.
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

// A string that changes when the adapter's files change: device, inode, size and modification time.
// The message of a NOT_FOUND status names the missing file.
absl::StatusOr<std::string> IdentityOfAdapterFiles(const std::string& path);

// Calls `look` every `interval_us` on its own thread, which has a low priority.
class FileWatch final {
 public:
  FileWatch(int64_t interval_us, std::function<void()> look);
  // Waits for a running call of `look`.
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
  std::thread thread_;  // the last member, because the thread uses the members above
};

}  // namespace tessera
