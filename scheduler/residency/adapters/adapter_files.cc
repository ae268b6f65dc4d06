#include "scheduler/residency/adapters/adapter_files.h"

#include <sys/resource.h>
#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tessera {

bool IsAdapterFolder(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(path + "/adapter_config.json", error);
}

absl::StatusOr<std::string> IdentityOfAdapterFiles(const std::string& path) {
  std::string identity;
  for (const char* name : {"/adapter_config.json", "/adapter_model.safetensors"}) {
    const std::string file = path + name;
    struct stat info;
    if (stat(file.c_str(), &info) != 0) {
      return absl::NotFoundError(
          absl::StrCat(file,
                       ": no such file; an adapter is a folder with adapter_config.json and "
                       "adapter_model.safetensors"));
    }
    absl::StrAppend(&identity, info.st_dev, ".", info.st_ino, ".", info.st_size, ".",
                    info.st_mtim.tv_sec, ".", info.st_mtim.tv_nsec, ";");
  }
  return identity;
}

FileWatch::FileWatch(int64_t interval_us, std::function<void()> look)
    : interval_us_(interval_us), look_(std::move(look)), thread_([this] { Loop(); }) {}

FileWatch::~FileWatch() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  stop_.notify_all();
  thread_.join();
}

void FileWatch::Loop() {
  setpriority(PRIO_PROCESS, 0, 10);  // Linux: the priority of this thread only
  const std::chrono::microseconds interval(interval_us_);
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stop_.wait_for(lock, interval, [this] { return stopping_; })) {
    lock.unlock();
    look_();
    lock.lock();
  }
}

}  // namespace tessera
